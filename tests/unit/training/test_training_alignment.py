"""The forced alignment finds the words of real recordings."""

from pathlib import Path

import numpy as np
import pytest

from training.synthesis import read_audio

pytest.importorskip("pocketsphinx", reason="pocketsphinx has no wheel for this Python")
from training.alignment import Aligner

SAMPLE = Path(__file__).parents[3] / "samples" / "zero_three_five_one.wav"


def test_words_are_found_in_order_and_where_there_is_sound() -> None:
    sound = read_audio(SAMPLE)
    found = Aligner()(sound, "zero three five one")
    assert found is not None
    assert [word for word, _, _ in found.words] == ["zero", "three", "five", "one"]
    level = np.sqrt(np.mean(sound.astype(np.float64) ** 2))
    for _, start, count in found.words:
        part = sound[start * 160 : (start + count) * 160].astype(np.float64)
        assert count >= 10
        assert np.sqrt(np.mean(part**2)) > level / 2
    covered = sum(count for _, _, count in found.phones)
    assert abs(covered - len(sound) // 160) <= 3


def test_unknown_words_are_not_aligned() -> None:
    assert Aligner()(read_audio(SAMPLE), "zero qwrtzk") is None


def test_an_aligner_goes_on_after_a_clip_that_does_not_fit() -> None:
    aligner = Aligner()
    assert aligner(np.zeros(800, np.int16), "seven seven seven seven") is None
    assert aligner(read_audio(SAMPLE), "zero three five one") is not None
