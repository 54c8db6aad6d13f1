"""One window's tokens on their way to segments. Pure: knows nothing about engines or audio."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from service.decoding.quality import Quality, compression_ratio
from service.decoding.words import Word
from service.engine.types import Finish, TokenStep
from service.text.detokenizer import StreamingDetokenizer
from service.text.segments import SegmentBuilder, TimedTokens
from service.transcription.events import TokenEvent

if TYPE_CHECKING:
    from service.audio.windows import Window
    from service.text.tokenizer import WhisperTokenizer

_NO_TOKEN = sys.maxsize
"""Larger than any token: nothing is a timestamp then."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A segment of a window that may still change.

    Attributes:
        first: index in the window's tokens of its first one.
        tokens: its tokens, timestamps among them.
        text: with the blank that it begins with, if it has one.
        start_s, end_s: seconds in the recording; the end may lie after the audio's.
        words: with seconds in the recording; None if they were not asked for.
    """

    first: int
    tokens: tuple[int, ...]
    text: str
    start_s: float
    end_s: float
    words: tuple[Word, ...] | None = None

    @property
    def counts(self) -> bool:
        """Whether the reference would tell it to the next window: it has text and takes time."""
        return bool(self.text.strip()) and self.start_s != self.end_s


@dataclass(frozen=True, slots=True)
class WindowResult:
    """What a window came to.

    Attributes:
        seek_frame: where the next window starts; may lie after the window's end.
        drafts: its segments, those without text too.
        texts: what each token of the window adds to the text.
        n_kept: tokens that stand; the rest is void.
        single_timestamp: whether nothing is spoken after the last timestamp.
        ends_clip: whether nothing after it is to be heard in this clip.
        is_silent: whether the window holds no speech, whatever was sampled.
        is_told: whether the next window may know of it.
        for_coverage: whether the next window begins where speech has no text yet.
    """

    seek_frame: int
    drafts: tuple[Draft, ...]
    texts: tuple[str, ...]
    n_kept: int
    single_timestamp: bool = False
    ends_clip: bool = False
    is_silent: bool = False
    is_told: bool = True
    for_coverage: bool = False

    @property
    def text(self) -> str:
        """The text of the tokens that stand."""
        return "".join(self.texts[: self.n_kept])

    def said(self) -> list[int]:
        """Return the tokens that the next window may be told."""
        return [token for draft in self.drafts if draft.counts for token in draft.tokens]

    def silent(self, seek_frame: int) -> WindowResult:
        """Return that there is no speech up to `seek_frame`."""
        return replace(self, seek_frame=seek_frame, drafts=(), n_kept=0, is_silent=True)

    def cut(self, place: int, seek_frame: int) -> WindowResult:
        """Return what is left without the drafts from `place` on."""
        n_kept = self.drafts[place].first if place < len(self.drafts) else self.n_kept
        return replace(self, drafts=self.drafts[:place], n_kept=n_kept, seek_frame=seek_frame)


class WindowTranscript:
    """Collects the steps of one decoding of one window.

    A character that the window ends in the middle of is no text.

    Args:
        window: where it lies in the recording.
        tokenizer: of the model.
        first_index: the number of its first token in the transcription.
        attempt: the number of this decoding.
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
        attempt: int = 0,
        temperature: float = 0.0,
        timestamps: bool = True,
    ) -> None:
        self.window = window
        self.first_index = first_index
        self.attempt = attempt
        self.temperature = temperature
        self.n_steps = 0
        self._tokenizer = tokenizer
        self._detokenizer = StreamingDetokenizer(tokenizer)
        self._builder = SegmentBuilder(
            tokenizer.timestamp_begin if timestamps else _NO_TOKEN,
            start_frame=window.start_frame,
            content_frames=window.content_frames,
        )
        self._cut: list[TimedTokens] = []
        self._tokens: list[int] = []
        self._texts: list[str] = []
        self._sum_logprob = 0.0
        self._no_speech_prob: float | None = None

    @property
    def n_tokens(self) -> int:
        """Tokens so far, end-of-text excepted."""
        return len(self._texts)

    @property
    def n_characters(self) -> int:
        """Length of the text so far."""
        return sum(map(len, self._texts))

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
        self._tokens.append(step.token_id)
        self._texts.append(self._detokenizer.push(step.token_id))
        seconds = self._tokenizer.timestamp_s(step.token_id)
        return TokenEvent(
            index=self.first_index + self.n_tokens - 1,
            window=self.window.index,
            attempt=self.attempt,
            token_id=step.token_id,
            text=self._texts[-1],
            logprob=step.logprob,
            timestamp_s=None if seconds is None else round(self.window.start_s + seconds, 2),
            no_speech_prob=step.no_speech_prob,
        )

    def quality(self) -> Quality:
        """Return the figures of the whole window, after its last step.

        The text that is compressed is the reference's: special tokens stand in it as they are
        written, and half a character as U+FFFD.
        """
        text = self._tokenizer.decode(self._tokens, special=True).strip()
        return Quality(
            avg_logprob=self._sum_logprob / (self.n_tokens + 1),
            compression_ratio=compression_ratio(text),
            no_speech_prob=self._no_speech_prob,
        )

    def finish(self) -> WindowResult:
        """Return what the window came to, after its last step."""
        end = self._builder.finish()
        drafts = tuple(self._draft(timed) for timed in (*self._cut, *end.segments))
        unfinished = end.unfinished_from
        return WindowResult(
            seek_frame=end.seek_frame,
            drafts=drafts,
            texts=tuple(self._texts),
            n_kept=self.n_tokens if unfinished is None else unfinished,
            single_timestamp=end.single_timestamp,
        )

    def _draft(self, timed: TimedTokens) -> Draft:
        text = "".join(self._texts[timed.first : timed.first + len(timed.tokens)])
        return Draft(timed.first, timed.tokens, text, timed.start_s, timed.end_s)
