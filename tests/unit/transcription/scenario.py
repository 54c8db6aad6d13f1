"""A recording, a script and an engine: one transcription from end to end, without a model."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import numpy as np
from numpy.typing import NDArray

from service.audio.vad import SpeechModel, SpeechModels
from service.engine.core import EngineCore
from service.engine.engine import Engine, EngineConfig
from service.engine.hosts import ThreadHost
from service.engine.scheduler import Scheduler, SchedulerConfig
from service.text.tokenizer import WhisperTokenizer
from service.transcription.events import Done, Event, Retract, TokenEvent
from service.transcription.params import ModelFacts, TranscriptionParams
from service.transcription.transcriber import Transcriber
from tests.unit.transcription.scripted import Script, ScriptedRunner

Waveform = NDArray[np.float32]


def facts(tokenizer: WhisperTokenizer) -> ModelFacts:
    return ModelFacts(
        name="scripted",
        n_vocab=tokenizer.n_vocab,
        n_text_ctx=448,
        max_frames=3000,
        suppress_tokens=(),
        begin_suppress_tokens=(tokenizer.eot,),
        max_initial_timestamp_index=50,
    )


def recording(seconds: float) -> Waveform:
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, round(seconds * 16_000)).astype(np.float32)


class Maximum:
    """Stands where the mel's maximum is computed, and notes by whom."""

    def __init__(self) -> None:
        self.calls = 0
        self.on_main_thread = False

    def __call__(self, waveform: Waveform) -> float:
        self.calls += 1
        self.on_main_thread |= threading.current_thread() is threading.main_thread()
        return 1.25


def spoken(tokenizer: WhisperTokenizer, *parts: str | float) -> list[int]:
    tokens: list[int] = []
    for part in parts:
        if isinstance(part, str):
            tokens += tokenizer.encode(part)
        else:
            tokens.append(tokenizer.timestamp_begin + round(part / 0.02))
    return [*tokens, tokenizer.eot]


def in_turn(*scripts: Sequence[int]) -> Script:
    left = list(scripts)
    return lambda window, params: left.pop(0)


@asynccontextmanager
async def running(runner: ScriptedRunner, eot: int) -> AsyncIterator[Engine]:
    scheduler = Scheduler(SchedulerConfig(runner.rows, runner.rows, eot, 448))
    engine = Engine(ThreadHost(EngineCore(scheduler, runner)), config=EngineConfig(max_requests=4))
    engine.start()
    await engine.until_ready()
    try:
        yield engine
    finally:
        await engine.stop(0.0)


def transcribe(
    tokenizer: WhisperTokenizer,
    runner: ScriptedRunner,
    waveform: Waveform,
    params: TranscriptionParams | None = None,
    maximum: Maximum | None = None,
    speech_model: Callable[[], SpeechModel] | None = None,
) -> list[Event]:
    speech_models = SpeechModels(speech_model) if speech_model is not None else None
    transcriber = Transcriber(facts(tokenizer), tokenizer, maximum or Maximum(), speech_models)

    async def scenario() -> list[Event]:
        async with running(runner, tokenizer.eot) as engine:
            session = engine.session()
            opened = transcriber.open(
                waveform, params or TranscriptionParams(), session, request_id="r1"
            )
            try:
                return [event async for event in opened.events()]
            finally:
                opened.close()

    return asyncio.run(scenario())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - it is told by no event
            await asyncio.sleep(0.001)


def done_of(events: Sequence[Event]) -> Done:
    assert isinstance(events[-1], Done)
    return events[-1]


def standing(events: Sequence[Event]) -> list[TokenEvent]:
    """Return the tokens that no retraction has made void, as a client would."""
    tokens: list[TokenEvent] = []
    for event in events:
        if isinstance(event, TokenEvent):
            tokens.append(event)
        elif isinstance(event, Retract):
            assert all(
                token.window == event.window for token in tokens if token.index >= event.from_index
            )
            tokens = [token for token in tokens if token.index < event.from_index]
    return tokens
