"""Strangers say the ten digits with sounds that stand for them somewhere."""

import random
from itertools import product

import numpy as np
import pytest

from training.corpora import DIGITS
from training.strangers import (
    ELSEWHERE,
    FURTHEST,
    MEMBERS,
    SOUNDS,
    mispronounce,
    other_words,
    pronounce,
    style,
    voice,
)

RNG = np.random.default_rng(1)
VOICES = [RNG.standard_normal((2, 256)).astype(np.float32) for _ in range(5)]
MEAN = np.mean(VOICES, axis=0)


@pytest.mark.parametrize("word", DIGITS)
def test_a_digit_is_one_sound_for_each_of_its_places(word: str) -> None:
    rng = random.Random(1)
    sayable = {"".join(sounds) for sounds in product(*(p.split() for p in SOUNDS[word]))}
    said = [pronounce(rng, word) for _ in range(200)]
    assert set(said) <= sayable
    assert len(set(said)) > 10
    usual = "".join(place.split()[0] for place in SOUNDS[word])
    assert said.count(usual) > 0


def test_no_digit_is_said_like_another() -> None:
    said = [
        {"".join(sounds) for sounds in product(*(p.split() for p in places))}
        for places in SOUNDS.values()
    ]
    assert sum(len(ways) for ways in said) == len(set().union(*said))


def test_sounds_without_another_stay_as_they_are() -> None:
    rng = random.Random(2)
    said = {mispronounce(rng, "kˈɪŋ") for _ in range(50)}
    assert said == {f"kˈ{sound}ŋ" for sound in ("ɪ", *ELSEWHERE["ɪ"].split())}


def test_a_style_goes_beyond_the_voices_on_a_line_from_their_mean() -> None:
    rng = random.Random(3)
    alike = VOICES[:1] * MEMBERS  # whose blends are all the same
    away = VOICES[0] - MEAN
    reach = []
    for _ in range(100):
        made = style(rng, alike, MEAN) - MEAN
        reach.append(float((made * away).sum() / (away * away).sum()))
        assert np.allclose(made, reach[-1] * away, atol=1e-5)
    assert 0.9 <= min(reach) < 1 < 1.5 < max(reach) <= FURTHEST


def test_half_of_the_voices_have_their_melody_from_elsewhere() -> None:
    apart = 0
    for seed in range(100):
        whole = style(random.Random(seed), VOICES, MEAN)
        made = voice(random.Random(seed), VOICES, MEAN)
        assert np.array_equal(made[:, :128], whole[:, :128])
        apart += not np.array_equal(made, whole)
    assert 30 < apart < 70


def test_other_words_sound_like_no_digit() -> None:
    found = other_words(["They walk to Rome, for two weeks.", "an 8th of it; won!"])
    assert found == ["rome", "they", "walk", "weeks"]
