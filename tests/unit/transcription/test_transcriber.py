from __future__ import annotations

import asyncio
import weakref

import numpy as np
import pytest

from service.audio.windows import Window, extract
from service.engine.types import LanguageProbabilities
from service.errors import DecodingFailed, InvalidRequest
from service.text.tokenizer import WhisperTokenizer
from service.transcription.events import (
    Done,
    Event,
    LanguageDetected,
    SegmentEvent,
    Started,
    TokenEvent,
)
from service.transcription.params import TranscriptionParams
from service.transcription.recording import Recording, Waveform
from service.transcription.transcriber import Transcriber
from tests.unit.transcription.scenario import (
    Maximum,
    done_of,
    facts,
    in_turn,
    recording,
    running,
    spoken,
    standing,
    transcribe,
    until,
)
from tests.unit.transcription.scripted import ScriptedRunner


def test_a_short_recording_is_one_window(english: WhisperTokenizer) -> None:
    runner = ScriptedRunner(in_turn(spoken(english, 0.0, " hi", 1.0)))
    maximum = Maximum()
    waveform = recording(2.0)
    events = transcribe(english, runner, waveform, maximum=maximum)
    assert [type(event) for event in events] == [
        Started, *[TokenEvent] * 5, SegmentEvent, Done,
    ]  # fmt: skip
    assert isinstance(events[0], Started)
    assert (events[0].id, events[0].model, events[0].duration_s) == ("r1", "scripted", 2.0)
    done = done_of(events)
    assert (done.text, done.language) == ("hi", "en")
    assert maximum.calls == 0, "a window that is the whole file needs no maximum"
    assert runner.encoded[0].log_maximum is None
    np.testing.assert_array_equal(runner.encoded[0].samples, extract(waveform, 0, 200))


def test_samples_of_a_short_recording_are_held_once() -> None:
    async def maximum(waveform: Waveform) -> float:
        return 1.25

    waveform = recording(1.003)
    held = Recording(waveform, maximum)
    np.testing.assert_array_equal(held.waveform, waveform)
    window = asyncio.run(held.input(Window(0, 0, held.n_frames)))
    np.testing.assert_array_equal(window.samples, extract(waveform, 0, 100))
    assert np.shares_memory(window.samples, held.waveform)
    assert not np.shares_memory(window.samples, waveform)
    part = asyncio.run(held.input(Window(1, 40, 60)))
    np.testing.assert_array_equal(part.samples, extract(waveform, 40, 60))
    samples = weakref.ref(window.samples)
    held.clear()
    del window
    assert samples() is None


def test_the_next_window_begins_at_the_last_timestamp(english: WhisperTokenizer) -> None:
    runner = ScriptedRunner(
        in_turn(
            spoken(english, 0.0, " one", 8.0, 8.0, " tw"),
            spoken(english, 0.0, " two", 10.0, 10.0, " three", 29.0),
            spoken(english, " four"),
        )
    )
    maximum = Maximum()
    waveform = recording(40.0)
    events = transcribe(english, runner, waveform, maximum=maximum)
    done = done_of(events)
    assert done.text == "one two three four"
    assert [(s.start_s, s.end_s) for s in done.segments] == [
        (0.0, 8.0), (8.0, 18.0), (18.0, 37.0), (38.0, 40.0),
    ]  # fmt: skip
    assert [s.id for s in done.segments] == [0, 1, 2, 3]
    for window, (start, frames) in zip(
        runner.encoded, [(0, 3000), (800, 3000), (3800, 200)], strict=True
    ):
        np.testing.assert_array_equal(window.samples, extract(waveform, start, frames))
        assert window.log_maximum == 1.25
    assert (maximum.calls, maximum.on_main_thread) == (1, False)


def test_the_text_is_that_of_the_tokens_not_retracted(english: WhisperTokenizer) -> None:
    runner = ScriptedRunner(
        in_turn(
            spoken(english, 0.0, " one", 8.0, 8.0, " twins"),
            spoken(english, 0.0, " two", 22.0),
            spoken(english, " and more"),
        )
    )
    events = transcribe(english, runner, recording(39.0))
    done = done_of(events)
    tokens = standing(events)
    assert "".join(token.text for token in tokens).strip() == done.text == "one two and more"
    indices = [event.index for event in events if isinstance(event, TokenEvent)]
    assert indices == list(range(len(indices)))
    kept = [token.token_id for token in tokens]
    assert kept == [token for segment in done.segments for token in segment.tokens]


def test_without_timestamps_windows_follow_one_another(english: WhisperTokenizer) -> None:
    runner = ScriptedRunner(lambda window, params: spoken(english, " x"))
    params = TranscriptionParams(without_timestamps=True)
    events = transcribe(english, runner, recording(70.0), params)
    assert done_of(events).text == "x x x"
    assert [window.content_frames for window in runner.encoded] == [3000, 3000, 1000]
    assert all(how.prompt[-1] == english.no_timestamps for how in runner.prompts)


def test_a_model_that_never_moves_still_comes_to_an_end(english: WhisperTokenizer) -> None:
    runner = ScriptedRunner(lambda window, params: spoken(english, 0.0, "a", 0.0, 0.0, "b"))
    events = transcribe(english, runner, recording(100.0))
    assert isinstance(events[-1], Done)
    assert len(runner.encoded) == 4


def languages(tokens: WhisperTokenizer, **shares: float) -> LanguageProbabilities:
    return {tokens.languages[code]: shares.get(code, 0.0) for code in tokens.languages}


def test_the_language_is_detected_once_when_it_is_not_given(
    multilingual: WhisperTokenizer,
) -> None:
    tokens = multilingual
    runner = ScriptedRunner(
        lambda window, params: spoken(tokens, 0.0, " 日本", 29.0),
        languages=lambda window: languages(tokens, ja=0.75, en=0.25),
    )
    events = transcribe(multilingual, runner, recording(45.0))
    detected = [event for event in events if isinstance(event, LanguageDetected)]
    assert [event.language for event in detected] == ["ja"]
    assert detected[0].probability == done_of(events).language_probability == pytest.approx(0.75)
    assert done_of(events).language == "ja"
    assert [how.prompt[how.sot_index :] for how in runner.prompts] == [
        (tokens.sot, tokens.languages["ja"], tokens.transcribe)
    ] * 2
    assert len(runner.encoded) == 2, "detection and decoding share the window's encoding"


def test_the_language_is_the_likeliest_of_those_that_are_possible(
    multilingual: WhisperTokenizer,
) -> None:
    runner = ScriptedRunner(
        lambda window, params: spoken(multilingual, 0.0, " ja", 1.0),
        languages=lambda window: languages(multilingual, ja=0.7, en=0.2, de=0.1),
    )
    params = TranscriptionParams(languages=("German", "en"))
    done = done_of(transcribe(multilingual, runner, recording(1.0), params))
    assert done.language == "en"
    assert done.language_probability == pytest.approx(2 / 3)


def test_each_window_may_have_its_own_language(multilingual: WhisperTokenizer) -> None:
    heard = iter(["ja", "de"])
    runner = ScriptedRunner(
        lambda window, params: spoken(multilingual, 0.0, " x", 29.0),
        languages=lambda window: languages(multilingual, **{next(heard): 1.0}),
    )
    params = TranscriptionParams(detect_language_per_window=True)
    events = transcribe(multilingual, runner, recording(40.0), params)
    detected = [event for event in events if isinstance(event, LanguageDetected)]
    assert [(event.window, event.language) for event in detected] == [(0, "ja"), (1, "de")]
    assert [segment.language for segment in done_of(events).segments] == ["ja", "de"]


def test_a_given_language_is_not_detected(multilingual: WhisperTokenizer) -> None:
    runner = ScriptedRunner(lambda window, params: spoken(multilingual, 0.0, " ja", 1.0))
    events = transcribe(
        multilingual, runner, recording(1.0), TranscriptionParams(language="German")
    )
    assert not any(isinstance(event, LanguageDetected) for event in events)
    assert done_of(events).language == "de"


def test_what_the_model_cannot_do_is_refused_when_opened(english: WhisperTokenizer) -> None:
    runner = ScriptedRunner(lambda window, params: [])
    with pytest.raises(InvalidRequest, match="English only"):
        transcribe(english, runner, recording(1.0), TranscriptionParams(language="fr"))
    assert not runner.encoded


def test_a_row_that_fails_is_an_error(english: WhisperTokenizer) -> None:
    runner = ScriptedRunner(lambda window, params: [5, -1])
    with pytest.raises(DecodingFailed):
        transcribe(english, runner, recording(1.0))


def test_the_next_window_waits_until_the_events_of_one_were_taken(
    english: WhisperTokenizer,
) -> None:
    runner = ScriptedRunner(lambda window, params: spoken(english, 0.0, " a", 29.0))
    transcriber = Transcriber(facts(english), english, Maximum())

    async def scenario() -> None:
        async with running(runner, english.eot) as engine:
            opened = transcriber.open(
                recording(60.0), TranscriptionParams(), engine.session(), request_id="r"
            )
            events = opened.events()
            seen: list[Event] = []
            while not any(isinstance(event, SegmentEvent) for event in seen):
                seen.append(await anext(events))
            assert len(runner.encoded) == 1
            await until(lambda: engine.stats()["window_slots_used"] == 0)
            assert len(runner.encoded) == 1
            while not (isinstance(seen[-1], TokenEvent) and seen[-1].window == 1):
                seen.append(await anext(events))
            assert len(runner.encoded) == 2
            await events.aclose()
            opened.close()

    asyncio.run(scenario())


def test_leaving_in_the_middle_frees_the_slot_and_the_permit(english: WhisperTokenizer) -> None:
    runner = ScriptedRunner(lambda window, params: spoken(english, " a" * 100))
    transcriber = Transcriber(facts(english), english, Maximum())

    async def scenario() -> None:
        async with running(runner, english.eot) as engine:
            opened = transcriber.open(
                recording(5.0), TranscriptionParams(), engine.session(), request_id="r"
            )
            events = opened.events()
            for _ in range(3):
                await anext(events)
            opened.close()
            opened.close()
            await until(lambda: engine.stats()["window_slots_used"] == 0)
            assert engine.stats()["requests"] == 0
            await events.aclose()

    asyncio.run(scenario())


def test_usage_counts_what_the_model_did(english: WhisperTokenizer) -> None:
    runner = ScriptedRunner(in_turn(spoken(english, 0.0, " hi", 1.0)))
    done = done_of(transcribe(english, runner, recording(2.0)))
    assert done.usage.to_dict() == {
        "type": "tokens",
        "input_tokens": 101,
        "input_token_details": {"audio_tokens": 100, "text_tokens": 1},
        "output_tokens": 6,
        "total_tokens": 107,
    }
    timings = done.timings
    assert timings.first_token_ms is not None
    assert 0 <= timings.queue_ms <= timings.first_token_ms <= timings.total_ms
    assert timings.realtime_factor == pytest.approx(2.0 / (timings.total_ms / 1e3))


def test_one_sample_is_transcribed(english: WhisperTokenizer) -> None:
    runner = ScriptedRunner(in_turn(spoken(english, 0.0)))
    events = transcribe(english, runner, np.zeros(1, np.float32))
    assert done_of(events).text == ""
    assert runner.encoded[0].content_frames == 1


def test_closing_frees_the_samples_while_the_transcription_is_still_held(
    english: WhisperTokenizer,
) -> None:
    async def scenario() -> None:
        async with running(ScriptedRunner(in_turn()), english.eot) as engine:
            samples = recording(2)
            alive = weakref.ref(samples)
            transcriber = Transcriber(facts(english), english, Maximum())
            opened = transcriber.open(
                samples, TranscriptionParams(), engine.session(), request_id="r1"
            )
            duration_s = opened.duration_s
            del samples
            opened.close()
            assert alive() is None
            assert opened.duration_s == duration_s

    asyncio.run(scenario())
