"""One recording, window after window, from samples to events.

Knows nothing about HTTP, and of the engine only the session that it is handed. The file's log
maximum is computed by a callable that the composition root injects, in a worker thread, so that
nothing here imports torch.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from service.audio.windows import SeekPlanner, Window, extract, total_frames
from service.engine.types import WindowInput
from service.transcription.events import (
    Done,
    Event,
    LanguageDetected,
    SegmentEvent,
    Started,
    Timings,
    Usage,
)
from service.transcription.params import (
    ModelFacts,
    SequencePlan,
    TranscriptionParams,
    check,
    detect_language,
)
from service.transcription.window import WindowTranscript

if TYPE_CHECKING:
    from service.decoding.params import SequenceParams
    from service.engine.engine import Session, WindowLease
    from service.text.tokenizer import WhisperTokenizer

SAMPLE_RATE = 16_000
FRAMES_PER_POSITION = 2

LogMaximum = Callable[[NDArray[np.float32]], float]


class Transcriber:
    """Opens transcriptions for one model. Holds nothing of any request.

    Args:
        facts: what to know about the model.
        tokenizer: of the model.
        log_maximum: log10 of the largest mel power of a recording; called in a worker thread.
    """

    def __init__(
        self, facts: ModelFacts, tokenizer: WhisperTokenizer, log_maximum: LogMaximum
    ) -> None:
        self.facts = facts
        self.tokenizer = tokenizer
        self.detection = detect_language(tokenizer, facts) if tokenizer.is_multilingual else None
        self._log_maximum = log_maximum
        self._one_at_a_time = asyncio.Semaphore(1)

    def check(self, params: TranscriptionParams) -> TranscriptionParams:
        """Return the params as this model can do them.

        Raises:
            InvalidRequest: if it cannot; names the field and what is possible.
        """
        return check(params, self.tokenizer)

    def open(
        self,
        waveform: NDArray[np.float32],
        params: TranscriptionParams,
        session: Session,
        *,
        request_id: str,
        arrived_at: float | None = None,
    ) -> Transcription:
        """Return the transcription of one recording, not begun yet.

        Args:
            waveform: f32[samples], 16 kHz mono, at least one sample.
            params: how.
            session: the request's permit; the transcription's `close` closes it.
            request_id: the id in the events.
            arrived_at: `time.perf_counter()` when the request came; now by default.

        Raises:
            InvalidRequest: if the model cannot do this.
        """
        return Transcription(self, waveform, self.check(params), session, request_id, arrived_at)

    async def log_maximum(self, waveform: NDArray[np.float32]) -> float:
        """Return log10 of the largest mel power of the recording, off the event loop."""
        async with self._one_at_a_time:
            return await asyncio.to_thread(self._log_maximum, waveform)


class Transcription:
    """One recording being transcribed. Made by `Transcriber.open`; its owner calls `close`."""

    def __init__(
        self,
        transcriber: Transcriber,
        waveform: NDArray[np.float32],
        params: TranscriptionParams,
        session: Session,
        request_id: str,
        arrived_at: float | None,
    ) -> None:
        self._transcriber = transcriber
        self._tokenizer = transcriber.tokenizer
        self._facts = transcriber.facts
        self._waveform = waveform
        self._duration_s = len(waveform) / SAMPLE_RATE
        self._params = params
        self._session = session
        self._id = request_id
        self._arrived_at = time.perf_counter() if arrived_at is None else arrived_at
        self._plan = SequencePlan(params, self._tokenizer, self._facts)
        self._language = params.language
        self._maximum: float | None = None
        self._usage = Usage()
        self._first_token_s: float | None = None
        self._n_tokens = 0
        self._n_windows = 0
        self._texts: list[str] = []
        self._segments: list[SegmentEvent] = []

    @property
    def duration_s(self) -> float:
        """Seconds of the recording."""
        return self._duration_s

    @property
    def usage(self) -> Usage:
        """What it has cost so far."""
        return self._usage

    @property
    def n_windows(self) -> int:
        """Windows decoded to their end so far."""
        return self._n_windows

    @property
    def queue_s(self) -> float | None:
        """From the first window's arrival at the engine to its first step; None before that."""
        return self._session.waited_s

    @property
    def first_token_s(self) -> float | None:
        """From the arrival of the request to its first token; None before that."""
        return self._first_token_s

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

    async def events(self) -> AsyncGenerator[Event, None]:
        """Yield each event as it comes; the next window begins when those of one were taken.

        To be iterated once.

        Raises:
            DecodingFailed: if the model gave no usable numbers for this recording.
            EngineDead, EngineDraining: if the engine fails or stops meanwhile.
        """
        yield Started(self._id, self._facts.name, self.duration_s)
        planner = SeekPlanner(total_frames(len(self._waveform)), self._facts.max_frames)
        while (window := planner.next()) is not None:
            transcript = WindowTranscript(
                window,
                self._tokenizer,
                first_index=self._n_tokens,
                first_segment=len(self._segments),
                temperature=self._params.temperature,
                timestamps=not self._params.without_timestamps,
            )
            async with self._session.window(await self._input(window)) as lease:
                if self._language is None and self._transcriber.detection is not None:
                    yield await self._detect(lease, self._transcriber.detection)
                how = self._plan.transcribe(self._language, window.index)
                async for step in lease.decode(how):
                    self._note_token()
                    event = transcript.push(step)
                    if event is not None:
                        yield event
            self._account(window, how, transcript.n_steps)
            self._n_tokens += transcript.n_tokens
            result = transcript.finish()
            self._texts.append(result.text)
            self._segments += result.segments
            if result.retract is not None:
                yield result.retract
            for segment in result.segments:
                yield segment
            planner.advance(result.seek_frame)
        yield self._done()

    async def _input(self, window: Window) -> WindowInput:
        samples = extract(self._waveform, window.start_frame, window.content_frames)
        if window.content_frames == total_frames(len(self._waveform)):
            return WindowInput(samples, window.content_frames)
        if self._maximum is None:
            self._maximum = await self._transcriber.log_maximum(self._waveform)
        return WindowInput(samples, window.content_frames, self._maximum)

    async def _detect(self, lease: WindowLease, how: SequenceParams) -> LanguageDetected:
        """Decode the one token that names the language."""
        steps = [step async for step in lease.decode(how)]
        step = steps[0]
        if step.error is not None:
            raise step.error
        self._language = next(
            code for code, token in self._tokenizer.languages.items() if token == step.token_id
        )
        return LanguageDetected(self._language, math.exp(step.logprob))

    def _note_token(self) -> None:
        if self._first_token_s is None:
            self._first_token_s = time.perf_counter() - self._arrived_at

    def _account(self, window: Window, how: SequenceParams, n_steps: int) -> None:
        self._n_windows += 1
        usage = self._usage
        self._usage = Usage(
            usage.audio_tokens + -(-window.content_frames // FRAMES_PER_POSITION),
            usage.prompt_tokens + len(how.prompt),
            usage.output_tokens + n_steps,
        )

    def _done(self) -> Done:
        total_s = time.perf_counter() - self._arrived_at
        first = self._first_token_s
        return Done(
            id=self._id,
            model=self._facts.name,
            text="".join(self._texts).strip(),
            language=self._language,
            duration_s=self.duration_s,
            segments=tuple(self._segments),
            usage=self._usage,
            timings=Timings(
                queue_ms=1e3 * (self.queue_s or 0.0),
                first_token_ms=None if first is None else 1e3 * first,
                total_ms=1e3 * total_s,
                realtime_factor=self.duration_s / max(total_s, 1e-9),
            ),
        )
