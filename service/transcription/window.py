"""One window's tokens on their way to events. Pure: knows nothing about engines or audio."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.audio.windows import FRAMES_PER_SECOND
from service.decoding.quality import compression_ratio
from service.engine.types import Finish, TokenStep
from service.text.detokenizer import StreamingDetokenizer
from service.text.segments import SegmentBuilder, TimedTokens
from service.transcription.events import Retract, RetractReason, SegmentEvent, TokenEvent

if TYPE_CHECKING:
    from service.audio.windows import Window
    from service.text.tokenizer import WhisperTokenizer

_NO_TOKEN = sys.maxsize
"""Larger than any token: nothing is a timestamp then."""


@dataclass(frozen=True, slots=True)
class WindowResult:
    """What a window came to.

    Attributes:
        seek_frame: where the next window starts.
        text: of the tokens that stand.
        retract: the tokens that do not, if any.
        segments: those with text.
    """

    seek_frame: int
    text: str
    retract: Retract | None
    segments: tuple[SegmentEvent, ...]


class WindowTranscript:
    """Collects the steps of one decoding of one window.

    A character that the window ends in the middle of is no text.

    Args:
        window: where it lies in the recording.
        tokenizer: of the model.
        first_index: the number of its first token in the transcription.
        first_segment: the number of its first segment.
        temperature: at which it is decoded.
        timestamps: whether timestamps cut the text and say where to go on. Without, the window is
            one segment, whatever the model says.
    """

    def __init__(
        self,
        window: Window,
        tokenizer: WhisperTokenizer,
        *,
        first_index: int,
        first_segment: int,
        temperature: float,
        timestamps: bool = True,
    ) -> None:
        self._window = window
        self._tokenizer = tokenizer
        self._first_index = first_index
        self._first_segment = first_segment
        self._temperature = temperature
        self._detokenizer = StreamingDetokenizer(tokenizer)
        self._builder = SegmentBuilder(
            tokenizer.timestamp_begin if timestamps else _NO_TOKEN,
            start_frame=window.start_frame,
            content_frames=window.content_frames,
        )
        self._cut: list[TimedTokens] = []
        self._texts: list[str] = []
        self._sum_logprob = 0.0
        self._no_speech_prob: float | None = None
        self._compression_ratio = 0.0
        self.n_steps = 0

    @property
    def n_tokens(self) -> int:
        """Tokens so far, end-of-text excepted."""
        return len(self._texts)

    def push(self, step: TokenStep) -> TokenEvent | None:
        """Take the next step; return its token, None for end-of-text.

        Raises:
            ServiceError: the error that the step carries.
        """
        if step.error is not None:
            raise step.error
        self.n_steps += 1
        self._sum_logprob += step.logprob
        if step.no_speech_prob is not None:
            self._no_speech_prob = step.no_speech_prob
        if step.finish is Finish.EOT:
            return None
        segment = self._builder.push(step.token_id)
        if segment is not None:
            self._cut.append(segment)
        self._texts.append(self._detokenizer.push(step.token_id))
        seconds = self._tokenizer.timestamp_s(step.token_id)
        return TokenEvent(
            index=self._first_index + self.n_tokens - 1,
            window=self._window.index,
            attempt=0,
            token_id=step.token_id,
            text=self._texts[-1],
            logprob=step.logprob,
            timestamp_s=None if seconds is None else round(self._window.start_s + seconds, 2),
            no_speech_prob=step.no_speech_prob,
        )

    def finish(self) -> WindowResult:
        """Return what the window came to, after its last step."""
        end = self._builder.finish()
        retract = None
        kept = self.n_tokens
        if end.unfinished_from is not None and end.unfinished_from < self.n_tokens:
            kept = end.unfinished_from
            first = self._first_index + kept
            retract = Retract(self._window.index, first, RetractReason.SEEK)
        self._compression_ratio = compression_ratio("".join(self._texts).strip())
        segments: list[SegmentEvent] = []
        for timed in (*self._cut, *end.segments):
            text = "".join(self._texts[timed.first : timed.first + len(timed.tokens)])
            if text.strip():
                segments.append(self._segment(timed, text, self._first_segment + len(segments)))
        seek = min(end.seek_frame, self._window.end_frame)  # a timestamp may lie after the audio
        return WindowResult(seek, "".join(self._texts[:kept]), retract, tuple(segments))

    def _segment(self, timed: TimedTokens, text: str, number: int) -> SegmentEvent:
        end_s = round(self._window.end_frame / FRAMES_PER_SECOND, 2)
        return SegmentEvent(
            id=number,
            window=self._window.index,
            seek=self._window.start_frame,
            start_s=min(timed.start_s, end_s),
            end_s=min(timed.end_s, end_s),
            text=text,
            tokens=timed.tokens,
            temperature=self._temperature,
            avg_logprob=self._sum_logprob / (self.n_tokens + 1),
            compression_ratio=self._compression_ratio,
            no_speech_prob=self._no_speech_prob,
        )
