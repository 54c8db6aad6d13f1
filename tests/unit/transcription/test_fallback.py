from __future__ import annotations

import pytest

from service.decoding.params import SequenceParams
from service.engine.types import WindowInput
from service.text.tokenizer import WhisperTokenizer
from service.transcription.events import Retract, RetractReason, TokenEvent
from service.transcription.params import LADDER, TranscriptionParams
from tests.unit.transcription.scenario import (
    done_of,
    in_turn,
    recording,
    spoken,
    standing,
    transcribe,
)
from tests.unit.transcription.scripted import Figures, ScriptedRunner


def sure_from(temperature: float, no_speech_prob: float = 0.0) -> Figures:
    """Return figures that are good from a temperature on."""
    return lambda params: (-0.1 if params.temperature >= temperature else -2.0, no_speech_prob)


def test_a_window_that_fails_is_decoded_again_at_the_next_temperature(
    english: WhisperTokenizer,
) -> None:
    runner = ScriptedRunner(
        lambda window, params: spoken(english, 0.0, f" t{params.temperature:g}", 1.5),
        figures=sure_from(0.4),
    )
    events = transcribe(english, runner, recording(2.0))
    done = done_of(events)
    assert done.text == "t0.4"
    assert [how.temperature for how in runner.prompts] == [0.0, 0.2, 0.4]
    assert [how.noise.attempt for how in runner.prompts] == [0, 1, 2]
    assert len(runner.encoded) == 1, "the window is decoded again from what is encoded"
    (segment,) = done.segments
    assert (segment.temperature, segment.attempts) == (0.4, 3)
    retracted = [event for event in events if isinstance(event, Retract)]
    assert [event.reason for event in retracted] == [RetractReason.FALLBACK] * 2
    tokens = [event for event in events if isinstance(event, TokenEvent)]
    assert [token.index for token in tokens] == list(range(len(tokens)))
    assert sorted({token.attempt for token in tokens}) == [0, 1, 2]
    assert "".join(token.text for token in standing(events)).strip() == done.text
    assert done.usage.output_tokens == len(tokens) + 3


def test_the_last_attempt_stands_however_it_is(english: WhisperTokenizer) -> None:
    runner = ScriptedRunner(
        lambda window, params: spoken(english, 0.0, " guess", 1.5), figures=sure_from(2.0)
    )
    (segment,) = done_of(transcribe(english, runner, recording(2.0))).segments
    assert [how.temperature for how in runner.prompts] == list(LADDER)
    assert (segment.temperature, segment.attempts) == (1.0, 6)


def test_one_temperature_is_one_attempt(english: WhisperTokenizer) -> None:
    runner = ScriptedRunner(
        lambda window, params: spoken(english, 0.0, " guess", 1.5), figures=sure_from(2.0)
    )
    transcribe(english, runner, recording(2.0), TranscriptionParams(temperature=0.7))
    assert [how.temperature for how in runner.prompts] == [0.7]


def test_a_text_that_repeats_itself_has_failed(english: WhisperTokenizer) -> None:
    def script(window: WindowInput, params: SequenceParams) -> list[int]:
        loops = params.temperature < 0.2
        return spoken(english, 0.0, " la la" * 20 if loops else " la", 1.5)

    runner = ScriptedRunner(script)
    done = done_of(transcribe(english, runner, recording(2.0)))
    assert (done.text, done.segments[0].temperature) == ("la", 0.2)
    unlimited = TranscriptionParams(compression_ratio_threshold=None)
    done = done_of(transcribe(english, ScriptedRunner(script), recording(2.0), unlimited))
    assert done.segments[0].temperature == 0.0


def test_silence_is_not_decoded_again_and_has_no_text(english: WhisperTokenizer) -> None:
    runner = ScriptedRunner(
        lambda window, params: spoken(english, 0.0, " Thanks for watching", 1.5),
        figures=sure_from(2.0, no_speech_prob=0.9),
    )
    events = transcribe(english, runner, recording(40.0))
    done = done_of(events)
    assert (done.text, done.segments, len(runner.prompts)) == ("", (), 2)
    retracted = [event for event in events if isinstance(event, Retract)]
    assert [event.reason for event in retracted] == [RetractReason.NO_SPEECH] * 2
    assert not standing(events)


def test_a_sure_text_stands_though_the_window_seems_silent(english: WhisperTokenizer) -> None:
    runner = ScriptedRunner(
        lambda window, params: spoken(english, 0.0, " hi", 1.5),
        figures=sure_from(0.0, no_speech_prob=0.9),
    )
    assert done_of(transcribe(english, runner, recording(2.0))).text == "hi"


def test_the_next_window_is_told_the_text_with_its_timestamps(english: WhisperTokenizer) -> None:
    runner = ScriptedRunner(
        in_turn(
            spoken(english, 0.0, " one", 8.0, 8.0, " tw"),
            spoken(english, 0.0, " two", 29.0),
            spoken(english, 0.0, " three", 1.0),
        )
    )
    transcribe(english, runner, recording(40.0))
    first, second, third = (how.prompt[: how.sot_index] for how in runner.prompts)
    one, two = spoken(english, 0.0, " one", 8.0)[:-1], spoken(english, 0.0, " two", 29.0)[:-1]
    assert first == ()
    assert second == (english.sot_prev, *one)
    assert third == (english.sot_prev, *one, *two)


def test_a_window_that_took_a_high_temperature_tells_the_next_one_nothing(
    english: WhisperTokenizer,
) -> None:
    runner = ScriptedRunner(
        lambda window, params: spoken(english, 0.0, " x", 29.0), figures=sure_from(0.6)
    )
    transcribe(english, runner, recording(40.0))
    assert [how.sot_index for how in runner.prompts] == [0] * 8


def test_silence_keeps_what_is_told(english: WhisperTokenizer) -> None:
    silent = [False, True, False]

    def figures(params: SequenceParams) -> tuple[float, float]:
        return (-2.0, 0.9) if silent[params.noise.window] else (-0.1, 0.0)

    runner = ScriptedRunner(
        lambda window, params: spoken(english, 0.0, " x", 29.0), figures=figures
    )
    transcribe(english, runner, recording(80.0))
    told = [how.prompt[: how.sot_index] for how in runner.prompts]
    assert told[1] == told[2] != ()


def test_only_clips_are_transcribed(english: WhisperTokenizer) -> None:
    runner = ScriptedRunner(lambda window, params: spoken(english, " x"))
    params = TranscriptionParams(clip_timestamps=(1.0, 3.0, 5.0))
    done = done_of(transcribe(english, runner, recording(10.0), params))
    assert [window.content_frames for window in runner.encoded] == [200, 500]
    assert [(s.start_s, s.end_s, s.seek) for s in done.segments] == [
        (1.0, 3.0, 100), (5.0, 10.0, 500),
    ]  # fmt: skip


@pytest.mark.parametrize("clips", [(20.0, 30.0), (20.0,), (3.0, 3.0)])
def test_clips_without_audio_are_an_empty_transcript(
    english: WhisperTokenizer, clips: tuple[float, ...]
) -> None:
    runner = ScriptedRunner(lambda window, params: [])
    params = TranscriptionParams(clip_timestamps=clips)
    done = done_of(transcribe(english, runner, recording(10.0), params))
    assert (done.text, done.segments) == ("", ())


def test_a_timestamp_after_the_audio_is_cut_to_its_end(english: WhisperTokenizer) -> None:
    runner = ScriptedRunner(lambda window, params: spoken(english, 0.0, "a", 20.0, 20.0, "b"))
    done = done_of(transcribe(english, runner, recording(1.5)))
    assert [(s.start_s, s.end_s) for s in done.segments] == [(0.0, 1.5)]
