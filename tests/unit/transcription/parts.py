"""A recording in parts that say who they are, and how they are transcribed side by side."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable

import numpy as np

from service.audio.vad import SpeechModels
from service.decoding.params import SequenceParams
from service.engine.types import LanguageProbabilities, WindowInput
from service.text.tokenizer import WhisperTokenizer
from service.transcription.events import (
    Event,
)
from service.transcription.params import Chunking, TranscriptionParams
from service.transcription.transcriber import Transcriber
from tests.unit.audio.test_vad import Loud
from tests.unit.transcription.scenario import (
    Maximum,
    Waveform,
    facts,
    running,
    spoken,
    until,
)
from tests.unit.transcription.scripted import ScriptedRunner

PARALLEL = TranscriptionParams(chunking=Chunking.PARALLEL)
STEP_S = 25.0


def speech(n_parts: int) -> Waveform:
    """Return 20 s of speech and 5 s of silence, again and again; each part is louder."""
    waveform = np.zeros(round(n_parts * STEP_S * 16_000), np.float32)
    for part in range(n_parts):
        at = round(part * STEP_S * 16_000)
        waveform[at : at + 20 * 16_000] = 0.6 + part / 1000
    return waveform


def part_of(window: WindowInput) -> int:
    """Return which part a window begins with."""
    return round(1000 * (float(window.samples[16_000]) - 0.6))


def says_its_part(tokenizer: WhisperTokenizer) -> ScriptedRunner:
    return ScriptedRunner(
        lambda window, params: spoken(tokenizer, 0.0, f" p{part_of(window)}", 20.0), rows=8
    )


def with_company(
    tokenizer: WhisperTokenizer,
    n_parts: int,
    n_at_once: int,
    detect: Callable[[WindowInput], LanguageProbabilities] | None = None,
) -> tuple[ScriptedRunner, list[Event]]:
    """Transcribe parts; the first one is held up until so many windows are there."""
    go = threading.Event()

    def script(window: WindowInput, params: SequenceParams) -> list[int]:
        part = part_of(window)
        assert part or go.wait(60)
        return spoken(tokenizer, 0.0, f" p{part}", 20.0)

    runner = ScriptedRunner(script, rows=8, languages=detect)
    transcriber = Transcriber(facts(tokenizer), tokenizer, Maximum(), SpeechModels(Loud))

    async def scenario() -> list[Event]:
        async with running(runner, tokenizer.eot) as engine:
            session = engine.session()
            opened = transcriber.open(speech(n_parts), PARALLEL, session, request_id="r")
            told = asyncio.create_task(all_of(opened.events()))
            await until(lambda: session.n_windows == n_at_once)
            go.set()
            events = await told
            opened.close()
            return events

    async def all_of(events: AsyncIterator[Event]) -> list[Event]:
        return [event async for event in events]

    return runner, asyncio.run(scenario())
