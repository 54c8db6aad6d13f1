from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from service.decoding.params import SequenceParams
from service.engine.types import WindowInput
from service.text.tokenizer import WhisperTokenizer
from service.transcription.coverage import Coverage, without
from service.transcription.events import Retract, RetractReason
from service.transcription.params import TranscriptionParams, Vad
from tests.unit.audio.test_vad import Loud, loud_at
from tests.unit.transcription.scenario import (
    done_of,
    in_turn,
    recording,
    spoken,
    standing,
    transcribe,
)
from tests.unit.transcription.scripted import ScriptedRunner

ON = TranscriptionParams(vad=Vad.ON, condition_on_previous_text=False)


def never(window: WindowInput, params: SequenceParams) -> Sequence[int]:
    raise AssertionError("nothing is to be decoded")


def test_hours_of_silence_are_an_empty_transcript_that_took_no_decoding(
    english: WhisperTokenizer,
) -> None:
    silence = np.zeros(2 * 3600 * 16_000, np.float32)

    class Silent(Loud):
        def probability(self, chunk: object) -> float:
            return 0.0

    runner = ScriptedRunner(never)
    done = done_of(transcribe(english, runner, silence, ON, speech_model=Silent))
    assert (done.text, done.segments, done.coverage, done.uncovered) == ("", (), 1.0, ())
    assert not runner.encoded


def test_what_is_made_of_a_long_silence_is_void_though_the_model_is_sure(
    english: WhisperTokenizer,
) -> None:
    """Without being asked to listen first: each window's text starts late, and is doubted."""
    runner = ScriptedRunner(lambda window, params: spoken(english, 3.0, " Thanks", 5.0))
    silence = np.zeros(20 * 60 * 16_000, np.float32)
    done = done_of(transcribe(english, runner, silence, speech_model=Loud))
    assert (done.text, done.segments, done.coverage) == ("", (), 1.0)
    assert len(runner.encoded) == 40, "each of the 40 windows is decoded once"


def test_windows_begin_where_somebody_speaks(english: WhisperTokenizer) -> None:
    runner = ScriptedRunner(lambda window, params: spoken(english, 0.0, " hi", 2.0))
    done = done_of(transcribe(english, runner, loud_at(100, (70, 72)), ON, speech_model=Loud))
    (segment,) = done.segments
    assert segment.start_s == pytest.approx(69.7, abs=0.1)
    assert (len(runner.encoded), done.coverage) == (1, 1.0)


def test_text_where_nobody_speaks_is_void(english: WhisperTokenizer) -> None:
    """The model is sure of a text, and hears no silence: only its late start is a hint."""
    runner = ScriptedRunner(lambda window, params: spoken(english, 1.0, " Thanks", 3.0))
    events = transcribe(english, runner, loud_at(20), speech_model=Loud)
    assert [e.reason for e in events if isinstance(e, Retract)] == [RetractReason.NO_SPEECH]
    done = done_of(events)
    assert (done.text, done.segments, standing(events)) == ("", (), [])


def test_auto_does_not_ask_about_what_is_covered(english: WhisperTokenizer) -> None:
    model = Loud()
    runner = ScriptedRunner(lambda window, params: spoken(english, 0.0, " hi", 9.5))
    done = done_of(transcribe(english, runner, recording(10.0), speech_model=lambda: model))
    assert (done.text, done.coverage, model.heard) == ("hi", None, 0)


def test_off_asks_nothing(english: WhisperTokenizer) -> None:
    model = Loud()
    runner = ScriptedRunner(lambda window, params: spoken(english, 1.0, " hi", 3.0))
    params = TranscriptionParams(vad=Vad.OFF)
    done = done_of(transcribe(english, runner, loud_at(20), params, speech_model=lambda: model))
    assert (done.text, done.coverage, model.heard) == ("hi", None, 0)


def test_speech_after_the_text_is_decoded_again_from_there(english: WhisperTokenizer) -> None:
    runner = ScriptedRunner(
        in_turn(spoken(english, 0.0, " one", 5.0), spoken(english, 0.0, " two", 6.0))
    )
    done = done_of(transcribe(english, runner, loud_at(20, (0, 5), (10, 15)), speech_model=Loud))
    assert done.text == "one two"
    assert [round(s.start_s) for s in done.segments] == [0, 10]
    assert (done.coverage, done.uncovered) == (1.0, ())


def test_text_after_the_speech_that_was_left_out_is_decoded_again_too(
    english: WhisperTokenizer,
) -> None:
    runner = ScriptedRunner(
        in_turn(
            spoken(english, 0.0, " one", 5.0, 5.0, " x", 5.2, 15.0, " three", 20.0),
            spoken(english, 0.0, " two", 5.0, 7.0, " three", 12.0),
        )
    )
    audio = loud_at(20, (0, 5), (8, 13), (15, 20))
    events = transcribe(english, runner, audio, speech_model=Loud)
    assert [e.reason for e in events if isinstance(e, Retract)] == [RetractReason.COVERAGE]
    done = done_of(events)
    assert done.text == "one x two three"
    assert "".join(token.text for token in standing(events)).strip() == done.text
    assert done.uncovered == ()


def test_what_cannot_be_decoded_is_reported_and_comes_to_an_end(
    english: WhisperTokenizer,
) -> None:
    runner = ScriptedRunner(lambda window, params: spoken(english, 0.0))
    done = done_of(transcribe(english, runner, loud_at(70, (5, 8), (40, 45)), speech_model=Loud))
    assert done.text == ""
    assert done.coverage == 0.0
    assert np.allclose(done.uncovered, [(4.9, 8.1), (39.9, 45.1)], atol=0.1)
    assert len(runner.encoded) <= 6


def test_uncovered_is_speech_minus_text_with_some_tolerance() -> None:
    speech = [(0.0, 10.0), (12.0, 14.0)]
    assert without(speech, [], 1) == speech
    assert without(speech, [(0.4, 9.6), (11.0, 15.0)], 0.3) == []
    assert without(speech, [(3.0, 5.0)], 1) == [(0, 2.5), (5.5, 10), (12, 14)]
    assert without(speech, [(3.0, 5.0)], 3) == [(5.5, 10)]


def test_speech_in_windows_that_overlap_counts_once() -> None:
    coverage = Coverage()
    coverage.add([(0, 4)])
    coverage.add([(2, 6), (8, 9)])
    assert coverage.speech_s == 7
    assert coverage.share([(0, 4)]) == pytest.approx(1 - (1.5 + 1) / 7, abs=1e-3)
