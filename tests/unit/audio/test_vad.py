from __future__ import annotations

import weakref
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from service.audio import wav
from service.audio.vad import SpeechBounds, SpeechMap, SpeechModels

Waveform = NDArray[np.float32]


class Loud:
    """Takes what is loud for speech."""

    def __init__(self) -> None:
        self.resets = self.heard = 0

    def reset(self) -> None:
        self.resets += 1

    def hear(self, samples: Waveform) -> Waveform:
        return np.array([self.probability(chunk) for chunk in samples], np.float32)

    def probability(self, chunk: Waveform) -> float:
        assert len(chunk) == 512
        self.heard += 1
        return float(np.abs(chunk).max() > 0.5)


def loud_at(seconds: float, *spans: tuple[float, float]) -> Waveform:
    waveform = np.zeros(round(seconds * 16_000), np.float32)
    for start_s, end_s in spans:
        waveform[round(start_s * 16_000) : round(end_s * 16_000)] = 0.9
    return waveform


def test_speech_is_found_with_a_margin() -> None:
    found = SpeechMap(SpeechModels(Loud), loud_at(10, (2, 3), (6, 8))).spans(0, 10)
    assert np.allclose(found, [(1.9, 3.1), (5.9, 8.1)], atol=0.05)


def test_short_pauses_join_and_short_noises_are_none() -> None:
    found = SpeechMap(SpeechModels(Loud), loud_at(10, (2, 3), (3.2, 4), (7, 7.03))).spans(0, 10)
    assert np.allclose(found, [(1.9, 4.1)], atol=0.05)


def test_bounds_say_what_is_speech_and_how_it_is_divided() -> None:
    waveform = loud_at(10, (2, 3), (3.2, 4))
    found = SpeechMap(SpeechModels(Loud), waveform, SpeechBounds(pad_s=0.5, pause_s=0.1)).spans(
        0, 10
    )
    assert np.allclose(found, [(1.5, 3.5), (2.7, 4.5)], atol=0.05)

    class Unsure(Loud):
        def probability(self, chunk: Waveform) -> float:
            return 0.6 * super().probability(chunk)

    assert SpeechMap(SpeechModels(Unsure), waveform).spans(0, 10)
    assert not SpeechMap(SpeechModels(Unsure), waveform, SpeechBounds(threshold=0.7)).spans(0, 10)


def test_spans_are_cut_to_what_was_asked_for() -> None:
    speech = SpeechMap(SpeechModels(Loud), loud_at(10, (2, 8)))
    assert speech.spans(3, 5) == [(3, 5)]
    assert speech.spans(9, 30) == []
    assert speech.spans(9.99, 9.99) == []


def test_a_recording_is_heard_once_and_as_far_as_asked() -> None:
    model = Loud()
    speech = SpeechMap(SpeechModels(lambda: model), loud_at(100, (2, 3)))
    speech.spans(0, 10)
    assert model.heard == pytest.approx(10 / 0.032, abs=2)
    speech.spans(0, 10)
    speech.spans(5, 20)
    assert model.heard == pytest.approx(20 / 0.032, abs=2)
    speech.spans(90, 100)
    assert model.resets == 1
    assert model.heard == pytest.approx(30 / 0.032, abs=20)


def test_the_next_recording_is_heard_with_the_model_of_one_that_is_through() -> None:
    made: list[Loud] = []

    def make() -> Loud:
        made.append(Loud())
        return made[-1]

    models = SpeechModels(make, max_idle=1)
    recordings = [SpeechMap(models, loud_at(1)) for _ in range(3)]
    assert not made, "nothing was asked for"
    for speech in recordings[:2]:
        speech.spans(0, 1)
        speech.close()
        speech.close()
    assert [model.resets for model in made] == [1]
    together = [SpeechMap(models, loud_at(1)) for _ in range(3)]
    for speech in together:
        speech.spans(0, 1)
    assert len(made) == 3
    for speech in together:
        speech.close()
    assert len(models._idle) == 1


def test_models_that_are_made_ahead_are_those_that_are_used() -> None:
    made: list[Loud] = []

    def make() -> Loud:
        made.append(Loud())
        return made[-1]

    models = SpeechModels(make, max_idle=2)
    models.warm_up()
    assert [model.heard for model in made] == [1, 1]
    together = [SpeechMap(models, loud_at(1)) for _ in range(2)]
    for speech in together:
        speech.spans(0, 1)
    assert len(made) == 2
    assert [model.resets for model in made] == [1, 1], "what they heard at first is forgotten"


def test_closing_frees_the_recording() -> None:
    waveform = loud_at(1)
    alive = weakref.ref(waveform)
    speech = SpeechMap(SpeechModels(Loud), waveform)
    del waveform
    speech.spans(0, 1)
    speech.close()
    assert alive() is None
    assert speech.spans(0, 1) == []


def test_a_model_that_heard_something_else_hears_what_a_new_one_hears(samples: Path) -> None:
    data = (samples / "zero_three_five_one.wav").read_bytes()
    spoken = wav.read_samples(data, wav.parse(data))
    models = SpeechModels()
    found = []
    for _ in range(2):
        speech = SpeechMap(models, spoken)
        speech.spans(0, 5)
        found.append(speech._probabilities.copy())
        speech.close()
    assert len(models._idle) == 1
    np.testing.assert_array_equal(found[0], found[1])


def test_numbers_that_are_none_are_silence() -> None:
    waveform = np.full(16_000, np.nan, np.float32)
    assert SpeechMap(SpeechModels(), waveform).spans(0, 1) == []


@pytest.mark.parametrize("scale", [0.0, 1e-4, 0.1])
def test_noise_and_silence_are_no_speech(scale: float) -> None:
    noise = np.random.default_rng(0).standard_normal(5 * 16_000).astype(np.float32)
    assert SpeechMap(SpeechModels(), noise * np.float32(scale)).spans(0, 5) == []


def test_spoken_digits_are_speech_between_silences(samples: Path) -> None:
    data = (samples / "zero_three_five_one.wav").read_bytes()
    spoken = wav.read_samples(data, wav.parse(data))
    silence = np.zeros(3 * 16_000, np.float32)
    found = SpeechMap(SpeechModels(), np.concatenate([silence, spoken, silence])).spans(0, 7)
    assert 2.5 < found[0][0] < 3.4
    assert 4.0 < found[-1][1] < 5.0
