"""The text of a recording as it becomes final. Pure: knows nothing about engines or audio."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from service.audio.vad import Span
from service.audio.windows import FRAMES_PER_SECOND, Window
from service.transcription.attempts import WindowAttempts
from service.transcription.events import (
    LanguageDetected,
    Retract,
    RetractReason,
    SegmentEvent,
    TokenEvent,
    WordTime,
)
from service.transcription.window import Draft, WindowResult

Numbered = TypeVar("Numbered", bound=TokenEvent | Retract | SegmentEvent | LanguageDetected)


class Transcript:
    """Collects what windows came to, and what other transcripts hold.

    Attributes:
        segments: those with text, in order.
    """

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._n_tokens = self._n_windows = 0
        self.segments: list[SegmentEvent] = []

    @property
    def text(self) -> str:
        """All text that stands."""
        return "".join(self._texts).strip()

    @property
    def spans(self) -> list[Span]:
        """Where there is text, in seconds."""
        return [(segment.start_s, segment.end_s) for segment in self.segments]

    def settle(
        self, window: Window, attempts: WindowAttempts, result: WindowResult, language: str | None
    ) -> list[Retract | SegmentEvent]:
        """Return what is final of a window, and note it."""
        self._texts.append(result.text)
        settled: list[Retract | SegmentEvent] = []
        if result.n_kept < len(result.texts):
            first = attempts.transcript.first_index + result.n_kept
            settled.append(Retract(window.index, first, _reason(result)))
        for draft in result.drafts:
            if draft.text.strip():
                segment = self._segment(draft, window, attempts, language)
                self.segments.append(segment)
                settled.append(segment)
        return settled

    def numbered(self, event: Numbered) -> Numbered:
        """Return an event of a transcript that begins after this one, with the numbers it has then.

        See `append`.
        """
        if not self._n_windows:
            return event
        window = event.window + self._n_windows
        match event:
            case TokenEvent():
                return replace(event, window=window, index=event.index + self._n_tokens)
            case Retract():
                return replace(event, window=window, from_index=event.from_index + self._n_tokens)
            case SegmentEvent():
                return replace(event, window=window, id=event.id + len(self.segments))
            case LanguageDetected():
                return replace(event, window=window)

    def append(self, other: Transcript, *, n_tokens: int, n_windows: int) -> None:
        """Let another transcript follow, which took so many tokens and windows."""
        self.segments += [self.numbered(segment) for segment in other.segments]
        self._texts += other._texts
        self._n_tokens += n_tokens
        self._n_windows += n_windows

    def _segment(
        self, draft: Draft, window: Window, attempts: WindowAttempts, language: str | None
    ) -> SegmentEvent:
        end_s = round(window.end_frame / FRAMES_PER_SECOND, 2)
        quality = attempts.quality
        return SegmentEvent(
            id=len(self.segments),
            window=window.index,
            seek=window.start_frame,
            start_s=min(draft.start_s, end_s),
            end_s=min(draft.end_s, end_s),
            text=draft.text,
            tokens=draft.tokens,
            temperature=attempts.transcript.temperature,
            avg_logprob=quality.avg_logprob,
            compression_ratio=quality.compression_ratio,
            no_speech_prob=quality.no_speech_prob,
            attempts=len(attempts.failures) + 1,
            language=language,
            words=None
            if draft.words is None
            else tuple(WordTime(w.text, w.start_s, w.end_s, w.probability) for w in draft.words),
        )


def _reason(result: WindowResult) -> RetractReason:
    if result.is_silent:
        return RetractReason.NO_SPEECH
    return RetractReason.COVERAGE if result.for_coverage else RetractReason.SEEK
