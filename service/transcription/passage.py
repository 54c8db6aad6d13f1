"""A passage of a recording, window after window: the long form of openai/whisper `transcribe()`.

Each window begins where the text of the one before it ends, and is told that text. A recording is
one passage, or several that are decoded side by side and know nothing of each other. Knows nothing
about HTTP, and of the engine only the session that it is handed.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.audio.windows import SeekPlanner, Window
from service.decoding.quality import is_silent
from service.transcription.account import Account
from service.transcription.attempts import WindowAttempts
from service.transcription.events import LanguageDetected, Retract, SegmentEvent, TokenEvent
from service.transcription.language import detect
from service.transcription.listening import Listener, Spans
from service.transcription.params import ModelFacts, TranscriptionParams, Vad
from service.transcription.prompts import PreviousText, SequencePlan
from service.transcription.recording import Recording
from service.transcription.timing import WordTimer
from service.transcription.transcript import Transcript
from service.transcription.window import WindowResult, WindowTranscript

if TYPE_CHECKING:
    from service.engine.engine import Session, WindowLease
    from service.text.tokenizer import WhisperTokenizer

PassageEvent = TokenEvent | Retract | SegmentEvent | LanguageDetected


@dataclass(frozen=True, slots=True)
class Task:
    """What all passages of a recording have in common.

    Attributes:
        recording: what is transcribed.
        params: how, as `check` returned them.
        tokenizer, facts: of the model.
        session: the request's permit.
        account: of what it costs.
        spans: where there is speech; None if nobody listens for it.
    """

    recording: Recording
    params: TranscriptionParams
    tokenizer: WhisperTokenizer
    facts: ModelFacts
    session: Session
    account: Account
    spans: Spans | None


class Passage:
    """Transcribes clips of a recording, one after another. To be iterated once.

    Its numbers of windows, tokens and segments begin with 0, whatever stands before it in the
    recording: a passage gives the same alone and beside others.

    Args:
        task: of the recording.
        clips: start and end in frames, in order; None for all of it.
        language: a code; None to detect it, or if the model has none.

    Attributes:
        language: of its last window.
        transcript: what it came to.
        listener: that compared it with the speech in it, if one did.
        n_tokens: sampled so far, end-of-text excepted.
        n_windows: taken so far, those passed over because nobody speaks in them among them.
    """

    def __init__(
        self,
        task: Task,
        clips: Sequence[tuple[int, int]] | None,
        language: str | None,
    ) -> None:
        params, tokenizer, facts = task.params, task.tokenizer, task.facts
        n_frames = task.recording.n_frames
        self.language = language
        self.transcript = Transcript()
        listens = task.spans is not None and params.vad is not Vad.OFF
        self.listener = Listener(params, task.spans) if listens and task.spans else None
        self.n_tokens = self.n_windows = 0
        self._task = task
        self._planner = SeekPlanner(n_frames, facts.max_frames, clips)
        self._plan = SequencePlan(params, tokenizer, facts)
        self._previous = PreviousText(params, tokenizer, facts)
        timer = WordTimer(params, tokenizer, self._plan, n_frames)
        self._timer = timer if params.word_timestamps else None

    async def events(self) -> AsyncGenerator[PassageEvent, None]:
        """Yield each event as it comes; the next window begins when those of one were taken.

        Raises:
            DecodingFailed: if the model gave no usable numbers for this passage.
            EngineDead, EngineDraining: if the engine fails or stops meanwhile.
        """
        task, planner = self._task, self._planner
        while (window := planner.next()) is not None:
            self.n_windows = window.index + 1
            if self.listener is not None:
                begin = await self.listener.speech_from(window)
                if begin > window.start_frame:
                    planner.advance(begin)
                    continue
            async with task.session.window(await task.recording.input(window)) as lease:
                if self._detects:
                    yield await self._detect(lease, window)
                attempts = self._attempts(lease, window)
                async with aclosing(attempts.events()) as events:
                    async for event in events:
                        yield event
                result = await self._result(lease, attempts)
            self.n_tokens += attempts.n_tokens
            task.account.note_window(window, attempts, is_silent=result.is_silent)
            for settled in self.transcript.settle(window, attempts, result, self.language):
                yield settled
            self._go_on(window, result)

    @property
    def _detects(self) -> bool:
        if not self._task.tokenizer.is_multilingual:
            return False
        return self.language is None or self._task.params.detect_language_per_window

    async def _detect(self, lease: WindowLease, window: Window) -> LanguageDetected:
        candidates = self._task.params.languages
        self.language, probability = (await detect(lease, self._task.tokenizer, candidates))[0]
        return LanguageDetected(self.language, probability, window.index)

    def _attempts(self, lease: WindowLease, window: Window) -> WindowAttempts:
        previous = self._previous.tokens()
        params, language = self._task.params, self.language
        return WindowAttempts(
            lease,
            temperatures=params.temperatures,
            thresholds=params.thresholds,
            sequence=lambda temperature, attempt: self._plan.transcribe(
                language, window.index, previous, temperature=temperature, attempt=attempt
            ),
            transcript=lambda first_index, attempt, temperature: WindowTranscript(
                window,
                self._task.tokenizer,
                first_index=first_index,
                attempt=attempt,
                temperature=temperature,
                timestamps=not params.without_timestamps,
            ),
            first_index=self.n_tokens,
        )

    async def _result(self, lease: WindowLease, attempts: WindowAttempts) -> WindowResult:
        """Return what the window came to: nothing, if it is silent."""
        window = attempts.transcript.window
        result = attempts.transcript.finish()
        if is_silent(attempts.quality, self._task.params.thresholds):
            result = result.silent(window.end_frame)
        elif self._timer is not None:
            result = await self._timer.time(lease, window, self.language, result)
        if self.listener is not None:
            result = await self.listener.compare(window, attempts, result)
        if result.is_told and not result.is_silent:
            self._previous.add(result.said(), attempts.transcript.temperature)
        return result

    def _go_on(self, window: Window, result: WindowResult) -> None:
        if result.ends_clip:
            self._planner.end_clip()
        else:
            seek = max(result.seek_frame, window.start_frame + 1)
            self._planner.advance(min(seek, window.end_frame))
