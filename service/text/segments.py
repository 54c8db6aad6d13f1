"""Segments of a window by its timestamp tokens, and where to seek next.

Pure arithmetic over token ids: knows nothing about text, audio or models. The rules are those of
openai/whisper `transcribe()`, except that seeking always moves on, and that a segment which starts
and ends at once keeps its text: it has been streamed.
"""

from __future__ import annotations

from dataclasses import dataclass

from service.text.tokenizer import TIMESTAMP_S

FRAMES_PER_TIMESTAMP = 2
"""Mel frames of 10 ms from one timestamp token to the next."""
FRAME_S = 0.01


@dataclass(frozen=True, slots=True)
class TimedTokens:
    """A segment of a window, before it has text.

    Attributes:
        start_s, end_s: seconds in the file.
        tokens: its tokens, timestamps among them.
        first: index in the window's tokens of its first one.
    """

    start_s: float
    end_s: float
    tokens: tuple[int, ...]
    first: int


@dataclass(frozen=True, slots=True)
class WindowEnd:
    """What is known when a window's last token is.

    Attributes:
        segments: the segments that `SegmentBuilder.push` has not returned yet (none or one).
        seek_frame: where in the file the next window starts.
        unfinished_from: index of the first token that belongs to no segment, because the next
            window starts before it and hears it again; None if all tokens stand.
        single_timestamp: whether the last token is a timestamp after text: nothing is spoken after
            it in this window.
    """

    segments: tuple[TimedTokens, ...]
    seek_frame: int
    unfinished_from: int | None
    single_timestamp: bool = False


class SegmentBuilder:
    """Cuts the tokens of one window into segments while they come.

    Two timestamps in a row end a segment. The end of the window decides about the rest:

    - after at least one such pair, the rest is a segment of its own if it ends with a single
      timestamp (no speech after it; the whole window is done), else it is unfinished and the next
      window starts at the last timestamp of the last segment;
    - without any pair the window is one segment, up to its last timestamp if that is not 0.

    Args:
        timestamp_begin: id of <|0.00|>.
        start_frame: mel frame of the file at which the window starts.
        content_frames: mel frames of the window that hold audio.
    """

    def __init__(self, timestamp_begin: int, *, start_frame: int, content_frames: int) -> None:
        self._timestamp_begin = timestamp_begin
        self._start_frame = start_frame
        self._content_frames = content_frames
        self._tokens: list[int] = []
        self._done = 0

    def push(self, token_id: int) -> TimedTokens | None:
        """Take the next token (never end-of-text); return the segment that it completes, if any."""
        self._tokens.append(token_id)
        place = len(self._tokens) - 1
        if not place or not self._is_timestamp(place) or not self._is_timestamp(place - 1):
            return None
        return self._cut(place)

    def finish(self) -> WindowEnd:
        """Return what is left and where to go on."""
        whole_window = self._start_frame + self._content_frames
        single = self._ends_with_single_timestamp()
        if not self._done:
            rest = self._rest()
            return WindowEnd((rest,) if rest.tokens else (), whole_window, None, single)
        if single:
            return WindowEnd((self._cut(len(self._tokens)),), whole_window, None, single)
        seek_frame = self._start_frame + FRAMES_PER_TIMESTAMP * self._position(self._done - 1)
        if seek_frame == self._start_frame:  # the reference would hear the same window for ever
            return WindowEnd((self._rest(),), whole_window, None)
        return WindowEnd((), seek_frame, self._done)

    def _is_timestamp(self, place: int) -> bool:
        return self._tokens[place] >= self._timestamp_begin

    def _position(self, place: int) -> int:
        """Timestamp steps into the window; text in the place of a timestamp counts as its start."""
        return max(self._tokens[place] - self._timestamp_begin, 0)

    def _seconds(self, position: int) -> float:
        return round(self._start_frame * FRAME_S + position * TIMESTAMP_S, 2)

    def _ends_with_single_timestamp(self) -> bool:
        last = len(self._tokens) - 1
        return last > 0 and self._is_timestamp(last) and not self._is_timestamp(last - 1)

    def _cut(self, end: int) -> TimedTokens:
        first, self._done = self._done, end
        return TimedTokens(
            start_s=self._seconds(self._position(first)),
            end_s=self._seconds(self._position(end - 1)),
            tokens=tuple(self._tokens[first:end]),
            first=first,
        )

    def _rest(self) -> TimedTokens:
        """Everything after the last cut, up to its last timestamp or the end of the content."""
        tokens = self._tokens[self._done :]
        stamps = [token for token in tokens if token >= self._timestamp_begin]
        position = stamps[-1] - self._timestamp_begin if stamps else 0
        end_s = round((self._start_frame + self._content_frames) * FRAME_S, 2)
        return TimedTokens(
            start_s=self._seconds(0),
            end_s=self._seconds(position) if position > 0 else end_s,
            tokens=tuple(tokens),
            first=self._done,
        )
