"""Words with times for the segments of a window. Knows nothing about audio or HTTP.

As openai/whisper `transcribe()` with `word_timestamps`: the times of words are those of segments
too, and say where the next window begins.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from service.audio.windows import FRAMES_PER_SECOND, Window
from service.decoding.words import TimedSegment, Word, align_words, time_segments
from service.transcription.hallucination import end_of, without_hallucinations
from service.transcription.params import TranscriptionParams
from service.transcription.prompts import SequencePlan
from service.transcription.window import WindowResult

if TYPE_CHECKING:
    from service.engine.engine import WindowLease
    from service.text.tokenizer import WhisperTokenizer


class WordTimer:
    """Times the words of one recording, window after window.

    Args:
        params: as `check` returned them.
        tokenizer: of the model.
        plan: how to align.
        n_frames: of the recording.
    """

    def __init__(
        self,
        params: TranscriptionParams,
        tokenizer: WhisperTokenizer,
        plan: SequencePlan,
        n_frames: int,
    ) -> None:
        self._params = params
        self._tokenizer = tokenizer
        self._plan = plan
        self._n_frames = n_frames
        self._last_speech_s = 0.0

    async def time(
        self, lease: WindowLease, window: Window, language: str | None, result: WindowResult
    ) -> WindowResult:
        """Return a window's segments with their words, and where to go on after them.

        Raises:
            ServiceError: as the engine does.
        """
        texts = [
            tuple(token for token in draft.tokens if self._tokenizer.is_text(token))
            for draft in result.drafts
        ]
        words = await self._words(lease, window, language, [t for text in texts for t in text])
        timed = time_segments(
            [
                TimedSegment(draft.start_s, draft.end_s, text)
                for draft, text in zip(result.drafts, texts, strict=True)
            ],
            words,
            offset_s=window.start_s,
            last_speech_s=self._last_speech_s,
            prepended=self._params.prepend_punctuations,
            appended=self._params.append_punctuations,
        )
        drafts = tuple(
            replace(draft, start_s=each.start_s, end_s=each.end_s, words=each.words)
            for draft, each in zip(result.drafts, timed, strict=True)
        )
        return self._placed(window, replace(result, drafts=drafts))

    async def _words(
        self, lease: WindowLease, window: Window, language: str | None, tokens: list[int]
    ) -> list[Word]:
        if not tokens:
            return []
        how = self._plan.align(language, tokens, window.content_frames)
        alignment = await lease.align(how)
        return align_words(tokens, alignment, self._tokenizer, language)

    def _placed(self, window: Window, result: WindowResult) -> WindowResult:
        """Let the next window begin after the last word, unless nothing is spoken after it."""
        end_s = end_of(result.drafts)
        if not result.single_timestamp and end_s is not None and end_s > window.start_s:
            result = replace(result, seek_frame=round(end_s * FRAMES_PER_SECOND))
        silence_s = self._params.hallucination_silence_threshold
        if silence_s is not None:
            result = without_hallucinations(
                window,
                result,
                silence_s,
                last_speech_s=self._last_speech_s,
                n_frames=self._n_frames,
            )
        if result.is_told:
            end_s = end_of(result.drafts)
            self._last_speech_s = self._last_speech_s if end_s is None else end_s
        return result
