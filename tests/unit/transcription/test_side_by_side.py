"""`chunking=parallel` and the engine: parts are decoded at once, and told in order."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import numpy as np
import pytest

from service.audio.vad import SpeechModels
from service.decoding.params import SequenceParams
from service.engine.types import SessionClosed, WindowInput
from service.errors import DecodingFailed
from service.text.tokenizer import WhisperTokenizer
from service.transcription.events import (
    Event,
    SegmentEvent,
    TokenEvent,
)
from service.transcription.params import TranscriptionParams
from service.transcription.transcriber import Transcriber
from tests.unit.audio.test_vad import Loud, Waveform
from tests.unit.transcription.parts import (
    PARALLEL,
    STEP_S,
    part_of,
    says_its_part,
    speech,
    with_company,
)
from tests.unit.transcription.scenario import (
    Maximum,
    done_of,
    facts,
    running,
    spoken,
    standing,
    transcribe,
    until,
)
from tests.unit.transcription.scripted import ScriptedRunner


def test_parts_are_decoded_at_once_and_told_in_order(english: WhisperTokenizer) -> None:
    runner, events = with_company(english, 12, n_at_once=4)
    done = done_of(events)
    assert done.text == " ".join(f"p{part}" for part in range(12))
    assert runner.most_at_once == 4, "one request alone takes half of 8 slots"
    assert [segment.id for segment in done.segments] == list(range(12))
    assert [segment.window for segment in done.segments] == list(range(12))
    starts = [segment.start_s for segment in done.segments]
    assert np.allclose(starts, [STEP_S * part for part in range(12)], atol=0.35)
    tokens = [event for event in events if isinstance(event, TokenEvent)]
    assert [token.index for token in tokens] == list(range(len(tokens)))
    assert [token.window for token in tokens] == sorted(token.window for token in tokens)
    assert "".join(token.text for token in standing(events)).strip() == done.text
    assert [e for e in events if isinstance(e, SegmentEvent)] == list(done.segments)
    assert done.usage.output_tokens == len(tokens) + 12
    assert (done.coverage, done.uncovered) == (1.0, ())


def test_one_part_that_cannot_be_decoded_fails_the_recording_and_frees_all(
    english: WhisperTokenizer,
) -> None:
    runner = ScriptedRunner(
        lambda window, params: (
            [5, -1] if part_of(window) == 2 else spoken(english, 0.0, " x", 20.0)
        ),
        rows=8,
    )
    with pytest.raises(DecodingFailed):
        transcribe(english, runner, speech(6), PARALLEL, speech_model=Loud)


def test_a_detector_that_fails_fails_the_recording(english: WhisperTokenizer) -> None:
    class Broken(Loud):
        def probability(self, chunk: Waveform) -> float:
            if self.heard > 1500:
                raise RuntimeError("broken")
            return super().probability(chunk)

    with pytest.raises(RuntimeError, match="broken"):
        transcribe(english, says_its_part(english), speech(4), PARALLEL, speech_model=Broken)


def test_leaving_frees_all_windows_and_ends_all_tasks(english: WhisperTokenizer) -> None:
    go = threading.Event()

    def script(window: WindowInput, params: SequenceParams) -> list[int]:
        assert go.wait(60)
        return spoken(english, " a" * 100)

    transcriber = Transcriber(facts(english), english, Maximum(), SpeechModels(Loud))

    async def scenario() -> None:
        async with running(ScriptedRunner(script, rows=8), english.eot) as engine:
            before = asyncio.all_tasks()
            session = engine.session()
            opened = transcriber.open(speech(8), PARALLEL, session, request_id="r")
            told = asyncio.create_task(opened.result())
            await until(lambda: session.n_windows == 4)
            opened.close()
            opened.close()
            go.set()
            with pytest.raises(SessionClosed):
                await told
            await until(lambda: asyncio.all_tasks() == before)
            held = ("requests", "windows_waiting", "window_slots_used", "decoder_rows_used")
            await until(lambda: not any(engine.stats()[name] for name in held))

    asyncio.run(scenario())


def test_who_does_not_listen_stops_the_decoding(english: WhisperTokenizer) -> None:
    """Text that is not taken is kept for a few parts, not for a recording of hours."""
    runner = says_its_part(english)
    transcriber = Transcriber(facts(english), english, Maximum(), SpeechModels(Loud))

    async def scenario() -> None:
        async with running(runner, english.eot) as engine:
            opened = transcriber.open(speech(40), PARALLEL, engine.session(), request_id="r")
            events = opened.events()
            await anext(events)
            await anext(events)
            await until(
                lambda: len(runner.encoded) == 8 and engine.stats()["window_slots_used"] == 0
            )
            seen = [event async for event in events]
            assert len([event for event in seen if isinstance(event, SegmentEvent)]) == 40
            opened.close()

    asyncio.run(scenario())


def test_another_request_is_not_starved_and_the_share_shrinks(english: WhisperTokenizer) -> None:
    """Whoever comes finds a free slot, and begins before what the long one has in the queue."""
    runner = says_its_part(english)
    transcriber = Transcriber(facts(english), english, Maximum(), SpeechModels(Loud))

    async def scenario() -> None:
        async with running(runner, english.eot) as engine:
            long = transcriber.open(speech(40), PARALLEL, engine.session(), request_id="long")
            others = [engine.session() for _ in range(3)]
            assert [session.fair_share() for session in others] == [1, 1, 1]
            for session in others[1:]:
                session.close()
            assert others[0].fair_share() == 2
            events = long.events()
            await until_part(events, 3)
            n_before = len(runner.encoded)
            short = transcriber.open(
                speech(1), TranscriptionParams(), others[0], request_id="short"
            )
            told = asyncio.create_task(drain(events))
            assert (await short.result()).text == "p0"
            place = next(
                n for n, window in enumerate(runner.encoded)
                if n >= n_before and window.log_maximum is None
            )  # fmt: skip
            assert place - n_before <= 4
            assert not told.done()
            short.close()
            await told
            assert runner.most_at_once <= 4
            long.close()

    async def until_part(events: AsyncIterator[Event], part: int) -> None:
        async for event in events:
            if isinstance(event, SegmentEvent) and event.id == part:
                return

    async def drain(events: AsyncIterator[Event]) -> None:
        async for _ in events:
            pass

    asyncio.run(scenario())


def test_wide_windows_count_for_what_they_take(english: WhisperTokenizer) -> None:
    async def scenario() -> None:
        async with running(ScriptedRunner(lambda w, p: [], rows=16), english.eot) as engine:
            session = engine.session()
            assert [session.fair_share(width) for width in (1, 2, 5, 16)] == [8, 4, 1, 1]
            session.close()

    asyncio.run(scenario())
