"""Voices between voices say every digit."""

import random
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from training.corpora import DIGITS
from training.voices import FOREIGN, PHONEMES, Kokoro, digit_strings, voice

OWN = {"low": np.zeros((4, 256), np.float32), "high": np.ones((4, 256), np.float32)}
KOKORO = cast("Kokoro", SimpleNamespace(voices=OWN))


@pytest.mark.parametrize(("accented", "spellings"), [(0.0, PHONEMES), (1.0, FOREIGN)])
def test_each_voice_says_each_digit_once_with_phonemes_in_the_same_order(
    accented: float, spellings: dict[str, tuple[str, ...]]
) -> None:
    strings = list(digit_strings(random.Random(3), accented))
    said = [word for text, _ in strings for word in text.split()]
    assert sorted(said) == sorted(DIGITS)
    for text, phonemes in strings:
        place = 0
        for word in text.split():
            found = [phonemes.find(spelt, place) for spelt in spellings[word]]
            place = min(at for at in found if at >= 0)


def test_voices_are_kokoros_own_first_and_then_between_two_of_them() -> None:
    rng = random.Random(3)
    assert voice(KOKORO, rng, 0)[0] == "kokoro_low"
    assert voice(KOKORO, rng, 1)[0] == "kokoro_high"
    name, style = voice(KOKORO, rng, 2)
    assert name in {"kokoro_low+high", "kokoro_high+low"}
    assert style.dtype == np.float32
    assert 0.25 <= float(style[0, 0]) <= 0.75
    assert np.all(style == style[0, 0])
