"""Voice activity beside the decoding: what is silent, and what was left out.

Decides by seconds of speech and of text; knows nothing about models. The detector runs in a worker
thread, for one recording at a time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from service.audio.vad import Span
from service.audio.windows import FRAMES_PER_SECOND, Window
from service.decoding.quality import Quality
from service.transcription.attempts import WindowAttempts
from service.transcription.coverage import WORTH_HEARING_AGAIN_S, Coverage, without
from service.transcription.params import TranscriptionParams, Vad
from service.transcription.window import WindowResult

Spans = Callable[[float, float], Awaitable[list[Span]]]
"""Where there is speech between two times, in seconds."""

_DOUBTFUL_SILENCE_S = 2.0
"""A window without text for longer than this is worth a second look."""
LEAD_S = 0.2
"""A window that begins at speech begins this much before it."""


class Listener:
    """Compares windows with the speech in them.

    Args:
        params: as `check` returned them.
        spans: the detector.

    Attributes:
        coverage: of the speech that it heard.
        has_listened: whether the detector was asked at all.
        skipped_s: seconds that were never decoded.
    """

    def __init__(self, params: TranscriptionParams, spans: Spans) -> None:
        self._always = params.vad is Vad.ON
        self._no_speech = params.no_speech_threshold
        self._spans = spans
        self._hears_again = False
        self.coverage = Coverage()
        self.has_listened = False
        self.skipped_s = 0.0

    async def speech_from(self, window: Window) -> int:
        """Return the frame at which a window should begin: its end, if nobody speaks in it."""
        if not self._always:
            return window.start_frame
        speech = await self._hear(window)
        if not speech:
            begin = window.end_frame
        else:
            begin = int((speech[0][0] - LEAD_S) * FRAMES_PER_SECOND)
            if begin < window.start_frame + FRAMES_PER_SECOND:  # not worth another window
                begin = window.start_frame
        self.skipped_s += (begin - window.start_frame) / FRAMES_PER_SECOND
        return begin

    async def compare(
        self, window: Window, attempts: WindowAttempts, result: WindowResult
    ) -> WindowResult:
        """Return what a window came to, once it is compared with the speech in it.

        Text where nobody speaks is void. Where speech has no text, the next window begins there,
        once: what has none then is reported.
        """
        if not (self._always or self._is_doubtful(window, attempts.quality, result)):
            self._hears_again = False
            return result
        speech = await self._hear(window)
        if not speech:
            self._hears_again = False
            return result if result.is_silent else result.silent(window.end_frame)
        heard_again, self._hears_again = self._hears_again, False
        next_s = min(result.seek_frame, window.end_frame) / FRAMES_PER_SECOND
        self.coverage.add([(s, min(e, next_s)) for s, e in speech if s < next_s])
        missing = [
            span
            for span in without(speech, _texts(result), WORTH_HEARING_AGAIN_S)
            if span[0] < next_s - WORTH_HEARING_AGAIN_S
        ]
        if heard_again or not missing:
            return result
        again = int(max(0.0, missing[0][0] - LEAD_S) * FRAMES_PER_SECOND)
        if again < window.start_frame + FRAMES_PER_SECOND:
            return result
        self._hears_again = True
        place = next(
            (i for i, d in enumerate(result.drafts) if d.end_s > missing[0][1] and d.text.strip()),
            len(result.drafts),
        )
        return replace(result.cut(place, again), is_silent=False, for_coverage=True)

    async def _hear(self, window: Window) -> list[Span]:
        self.has_listened = True
        return await self._spans(window.start_s, window.end_frame / FRAMES_PER_SECOND)

    def _is_doubtful(self, window: Window, quality: Quality, result: WindowResult) -> bool:
        """Whether there is a reason to ask: silence, a guess, or a long stretch without text."""
        if result.is_silent or self._hears_again or not result.text.strip():
            return True
        sounds_silent = (
            self._no_speech is not None
            and quality.no_speech_prob is not None
            and quality.no_speech_prob > self._no_speech
        )
        end_s = min(result.seek_frame, window.end_frame) / FRAMES_PER_SECOND
        gaps = [
            start_s - before_s
            for (_, before_s), (start_s, _) in zip(
                [(0.0, window.start_s), *_texts(result)],
                [*_texts(result), (end_s, end_s)],
                strict=True,
            )
        ]
        return sounds_silent or max(gaps) > _DOUBTFUL_SILENCE_S


def _texts(result: WindowResult) -> list[Span]:
    return [(draft.start_s, draft.end_s) for draft in result.drafts if draft.text.strip()]
