"""Forced alignment finds the sounds where they are."""

import numpy as np
import pytest

from training.align import force, word_spans

SOUNDS = [7, 3, 4, 4]
WORDS = [("a", 1), ("one", 3)]
PLACES = [5, 20, 30, 40]


def emissions() -> np.ndarray:
    log_p = np.full((60, 9), -8.0, dtype=np.float32)
    log_p[:, 0] = -0.1
    for place, sound in zip(PLACES, SOUNDS, strict=True):
        log_p[place, 0], log_p[place, sound] = -5.0, -0.2
    return log_p


def test_sounds_are_found_where_they_are_likely() -> None:
    places, scores = force(emissions(), SOUNDS)
    assert places == PLACES
    assert scores == pytest.approx([-0.2] * 4)


def test_words_begin_and_end_between_sounds() -> None:
    places, scores = force(emissions(), SOUNDS)
    spans = list(word_spans(WORDS, places, scores))
    assert [word for word, _, _ in spans] == ["a", "one"]
    _, start_s, end_s = spans[1]
    assert 0.1 < start_s < 0.4 < 0.8 < end_s < 1.2


def test_too_many_sounds_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        force(emissions()[:3], SOUNDS)
