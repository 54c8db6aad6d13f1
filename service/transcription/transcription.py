"""One recording, from samples to events.

It is one passage, which knows all the text before each window, or it is cut at pauses and its
passages are decoded side by side. Knows nothing about HTTP, and of the engine only the session that
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
from service.audio.windows import FRAMES_PER_SECOND, SeekPlanner, clips_within
from service.transcription.account import Account
from service.transcription.chunks import ChunkCutter, Clip
from service.transcription.coverage import Coverage
from service.transcription.events import (
    Done,
    Event,
    LanguageDetected,
    Started,
    TokenEvent,
    Usage,
)
from service.transcription.language import detect
from service.transcription.params import Chunking, TranscriptionParams, Vad
from service.transcription.passage import Passage, PassageEvent, Task
from service.transcription.recording import Recording
from service.transcription.side_by_side import SideBySide
from service.transcription.transcript import Transcript

if TYPE_CHECKING:
    from service.engine.engine import Session
    from service.transcription.transcriber import Transcriber


class Transcription:
    """One recording being transcribed. Made by `Transcriber.open`; its owner calls `close`.

    Attributes:
        account: what it has cost so far.
    """

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
        self._recording = Recording(waveform, transcriber.log_maximum)
        self._params = params
        self._session = session
        self._id = request_id
        self._transcriber = transcriber
        self._speech: SpeechMap | None = None
        self._side_by_side: SideBySide | None = None
        self._transcript = Transcript()
        self._coverage: Coverage | None = None
        self._language = params.language
        self._language_probability: float | None = None

    @property
    def params(self) -> TranscriptionParams:
        """How it is done, with the model's defaults filled in."""
        return self._params

    @property
    def duration_s(self) -> float:
        """Seconds of the recording."""
        return self._recording.duration_s

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
        if self._side_by_side is not None:
            self._side_by_side.cancel()
        self._recording.clear()
        if self._speech is not None:
            self._speech.close()

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
        transcriber, recording = self._transcriber, self._recording
        window = SeekPlanner(recording.n_frames, transcriber.facts.max_frames).next()
        assert window is not None  # noqa: S101 - a recording has at least a frame
        async with self._session.window(await recording.input(window)) as lease:
            return await detect(lease, transcriber.tokenizer, self._params.languages)

    async def events(self) -> AsyncGenerator[Event, None]:
        """Yield each event as it comes; what is not taken is not decoded far ahead of.

        To be iterated once.

        Raises:
            DecodingFailed: if the model gave no usable numbers for this recording.
            EngineDead, EngineDraining: if the engine fails or stops meanwhile.
        """
        yield Started(self._id, self._transcriber.facts.name, self.duration_s)
        async with aclosing(self._told()) as events:
            async for event in events:
                if isinstance(event, Passage):
                    self._add(event)
                    continue
                if isinstance(event, TokenEvent):
                    self.account.note_token()
                elif isinstance(event, LanguageDetected) and self._language_probability is None:
                    self._language_probability = event.probability
                yield self._transcript.numbered(event)
        yield self._done()

    def _told(self) -> AsyncGenerator[PassageEvent | Passage, None]:
        """Return the events of each passage, and after them the passage, in order."""
        task, clips = self._new_task(), self._clips()
        if self._params.chunking is Chunking.SEQUENTIAL or self._speech is None:
            return _alone(Passage(task, clips, self._language))
        transcriber, params = self._transcriber, self._params
        cutter = ChunkCutter(
            clips_within(clips, self._recording.n_frames),
            transcriber.facts.max_frames,
            partial(transcriber.spans, self._speech),
            partial(transcriber.quietest, self._speech),
        )
        self._side_by_side = SideBySide(
            cutter.next,
            lambda clip, language: Passage(task, [clip], language),
            partial(self._session.fair_share, params.n_hypotheses),
            self._language,
            each_its_own=params.detect_language_per_window
            or not transcriber.tokenizer.is_multilingual,
        )
        return self._side_by_side.events()

    def _new_task(self) -> Task:
        transcriber, params = self._transcriber, self._params
        models = transcriber.speech_models
        if models is not None and params.vad is not Vad.OFF:
            self._speech = SpeechMap(models, self._recording.waveform, params.speech_bounds)
        return Task(
            self._recording,
            params,
            transcriber.tokenizer,
            transcriber.facts,
            self._session,
            self.account,
            None if self._speech is None else partial(transcriber.spans, self._speech),
        )

    def _clips(self) -> list[Clip] | None:
        """Return the clips in frames; a last one that has no end goes to the recording's."""
        frames = [round(seconds * FRAMES_PER_SECOND) for seconds in self._params.clip_timestamps]
        if not frames:
            return None
        if len(frames) % 2:
            frames.append(max(frames[-1], self._recording.n_frames))
        return list(zip(frames[::2], frames[1::2], strict=True))

    def _add(self, passage: Passage) -> None:
        """Note a passage that is told."""
        self._transcript.append(
            passage.transcript, n_tokens=passage.n_tokens, n_windows=passage.n_windows
        )
        if passage.language is not None:
            self._language = passage.language
        listener = passage.listener
        if listener is not None and (listener.has_listened or self._side_by_side is not None):
            self._coverage = self._coverage or Coverage()
            self._coverage.add(listener.coverage.speech)

    def _done(self) -> Done:
        texts = self._transcript.spans
        coverage = self._coverage
        if coverage is None and self._side_by_side is not None:
            coverage = Coverage()  # it was listened to, and nobody speaks
        uncovered = coverage.uncovered(texts) if coverage is not None else []
        self.account.note_speech(coverage, uncovered)
        return Done(
            id=self._id,
            model=self._transcriber.facts.name,
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


async def _alone(passage: Passage) -> AsyncGenerator[PassageEvent | Passage, None]:
    """Yield the events of a passage, and then the passage."""
    async with aclosing(passage.events()) as events:
        async for event in events:
            yield event
    yield passage
