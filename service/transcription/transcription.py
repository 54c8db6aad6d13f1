"""One recording, window after window, from samples to events.

Each window begins where the text of the one before it ends, and is told that text: the long form
of openai/whisper `transcribe()`. Knows nothing about HTTP, and of the engine only the session that
it is handed.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from service.audio.vad import SpeechMap
from service.audio.windows import FRAMES_PER_SECOND, SeekPlanner, Window, extract, total_frames
from service.decoding.quality import is_silent
from service.engine.types import WindowInput
from service.transcription.account import Account
from service.transcription.attempts import WindowAttempts
from service.transcription.events import (
    Done,
    Event,
    LanguageDetected,
    Started,
    TokenEvent,
    Usage,
)
from service.transcription.language import detect
from service.transcription.listening import Listener
from service.transcription.params import TranscriptionParams, Vad
from service.transcription.prompts import PreviousText, SequencePlan
from service.transcription.timing import WordTimer
from service.transcription.transcript import Transcript
from service.transcription.window import WindowResult, WindowTranscript

if TYPE_CHECKING:
    from service.engine.engine import Session, WindowLease
    from service.transcription.transcriber import Transcriber

SAMPLE_RATE = 16_000


class Transcription:
    """One recording being transcribed. Made by `Transcriber.open`; its owner calls `close`.

    Attributes:
        account: what it has cost so far.
    """

    _previous: PreviousText
    _listener: Listener | None
    _timer: WordTimer | None

    def __init__(
        self,
        transcriber: Transcriber,
        waveform: NDArray[np.float32],
        params: TranscriptionParams,
        session: Session,
        request_id: str,
        arrived_at: float | None,
    ) -> None:
        self.account = Account(arrived_at)
        self._transcriber = transcriber
        self._tokenizer = transcriber.tokenizer
        self._facts = transcriber.facts
        self._waveform = waveform
        self._duration_s = len(waveform) / SAMPLE_RATE
        self._params = params
        self._session = session
        self._id = request_id
        self._plan = SequencePlan(params, self._tokenizer, self._facts)
        self._language = params.language
        self._language_probability: float | None = None
        self._maximum: float | None = None
        self._transcript = Transcript()

    @property
    def params(self) -> TranscriptionParams:
        """How it is done, with the model's defaults filled in."""
        return self._params

    @property
    def duration_s(self) -> float:
        """Seconds of the recording."""
        return self._duration_s

    @property
    def usage(self) -> Usage:
        """What it has cost so far."""
        return self.account.usage

    @property
    def n_windows(self) -> int:
        """Windows decoded to their end so far."""
        return self.account.n_windows

    @property
    def queue_s(self) -> float | None:
        """From the first window's arrival at the engine to its first step; None before that."""
        return self._session.waited_s

    @property
    def first_token_s(self) -> float | None:
        """From the arrival of the request to its first token; None before that."""
        return self.account.first_token_s

    def close(self) -> None:
        """Stop decoding and free everything, the samples among it. Idempotent."""
        self._session.close()
        self._waveform = self._waveform[:0].copy()

    async def result(self) -> Done:
        """Return the transcript when it is complete.

        Raises:
            ServiceError: as `events`.
        """
        async with aclosing(self.events()) as events:
            async for event in events:
                if isinstance(event, Done):
                    return event
        raise AssertionError("a transcription ends with Done or an error")

    async def languages(self) -> list[tuple[str, float]]:
        """Return the languages of the recording's first window, the likeliest first.

        The model has to be multilingual. Nothing is transcribed.

        Raises:
            ServiceError: as `events`.
        """
        window = SeekPlanner(total_frames(len(self._waveform)), self._facts.max_frames).next()
        assert window is not None  # noqa: S101 - a recording has at least a frame
        async with self._session.window(await self._input(window)) as lease:
            return await detect(lease, self._tokenizer, self._params.languages)

    async def events(self) -> AsyncGenerator[Event, None]:
        """Yield each event as it comes; the next window begins when those of one were taken.

        To be iterated once.

        Raises:
            DecodingFailed: if the model gave no usable numbers for this recording.
            EngineDead, EngineDraining: if the engine fails or stops meanwhile.
        """
        yield Started(self._id, self._facts.name, self.duration_s)
        self._previous = PreviousText(self._params, self._tokenizer, self._facts)
        self._listener = self._new_listener()
        n_frames = total_frames(len(self._waveform))
        timer = WordTimer(self._params, self._tokenizer, self._plan, n_frames)
        self._timer = timer if self._params.word_timestamps else None
        planner = SeekPlanner(n_frames, self._facts.max_frames, self._clips())
        while (window := planner.next()) is not None:
            if self._listener is not None:
                begin = await self._listener.speech_from(window)
                if begin > window.start_frame:
                    planner.advance(begin)
                    continue
            async with self._session.window(await self._input(window)) as lease:
                if self._detects(window):
                    yield await self._detect(lease, window)
                attempts = self._attempts(lease, window)
                async with aclosing(attempts.events()) as events:
                    async for event in events:
                        if isinstance(event, TokenEvent):
                            self.account.note_token()
                        yield event
                result = await self._result(lease, attempts)
            self.account.note_window(window, attempts)
            self.account.n_silent += result.is_silent
            for settled in self._transcript.settle(window, attempts, result, self._language):
                yield settled
            if result.ends_clip:
                planner.end_clip()
            else:
                seek = max(result.seek_frame, window.start_frame + 1)
                planner.advance(min(seek, window.end_frame))
        yield self._done()

    def _clips(self) -> list[tuple[int, int]] | None:
        """Return the clips in frames; a last one that has no end goes to the recording's."""
        frames = [round(seconds * FRAMES_PER_SECOND) for seconds in self._params.clip_timestamps]
        if not frames:
            return None
        if len(frames) % 2:
            frames.append(max(frames[-1], total_frames(len(self._waveform))))
        return list(zip(frames[::2], frames[1::2], strict=True))

    async def _input(self, window: Window) -> WindowInput:
        samples = extract(self._waveform, window.start_frame, window.content_frames)
        if window.content_frames == total_frames(len(self._waveform)):
            return WindowInput(samples, window.content_frames)
        if self._maximum is None:
            self._maximum = await self._transcriber.log_maximum(self._waveform)
        return WindowInput(samples, window.content_frames, self._maximum)

    def _detects(self, window: Window) -> bool:
        if not self._tokenizer.is_multilingual:
            return False
        return self._language is None or self._params.detect_language_per_window

    async def _detect(self, lease: WindowLease, window: Window) -> LanguageDetected:
        languages = await detect(lease, self._tokenizer, self._params.languages)
        self._language, probability = languages[0]
        if self._language_probability is None:
            self._language_probability = probability
        return LanguageDetected(self._language, probability, window.index)

    def _attempts(self, lease: WindowLease, window: Window) -> WindowAttempts:
        previous = self._previous.tokens()
        params, language = self._params, self._language
        return WindowAttempts(
            lease,
            temperatures=params.temperatures,
            thresholds=params.thresholds,
            sequence=lambda temperature, attempt: self._plan.transcribe(
                language, window.index, previous, temperature=temperature, attempt=attempt
            ),
            transcript=lambda first_index, attempt, temperature: WindowTranscript(
                window,
                self._tokenizer,
                first_index=first_index,
                attempt=attempt,
                temperature=temperature,
                timestamps=not params.without_timestamps,
            ),
            first_index=self.account.n_tokens,
        )

    def _new_listener(self) -> Listener | None:
        model = self._transcriber.speech_model
        if model is None or self._params.vad is Vad.OFF:
            return None
        speech = SpeechMap(model(), self._waveform, self._params.speech_bounds)
        return Listener(self._params, partial(self._transcriber.spans, speech))

    async def _result(self, lease: WindowLease, attempts: WindowAttempts) -> WindowResult:
        """Return what the window came to: nothing, if it is silent."""
        window = attempts.transcript.window
        result = attempts.transcript.finish()
        if is_silent(attempts.quality, self._params.thresholds):
            result = result.silent(window.end_frame)
        elif self._timer is not None:
            result = await self._timer.time(lease, window, self._language, result)
        if self._listener is not None:
            result = await self._listener.compare(window, attempts, result)
        if result.is_told and not result.is_silent:
            self._previous.add(result.said(), attempts.transcript.temperature)
        return result

    def _done(self) -> Done:
        listener = self._listener
        texts = self._transcript.spans
        listened = listener is not None and listener.has_listened
        coverage = listener.coverage if listener is not None and listened else None
        uncovered = coverage.uncovered(texts) if coverage is not None else []
        self.account.note_speech(coverage, uncovered)
        return Done(
            id=self._id,
            model=self._facts.name,
            text=self._transcript.text,
            language=self._language,
            duration_s=self.duration_s,
            segments=tuple(self._transcript.segments),
            usage=self.usage,
            timings=self.account.timings(self.queue_s, self.duration_s),
            language_probability=self._language_probability,
            coverage=None if coverage is None else coverage.share(texts),
            uncovered=tuple(uncovered),
        )
