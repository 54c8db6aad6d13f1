"""Forced alignment finds the letters where they are."""

import numpy as np
import pytest

from training.align import force, word_spans
from training.vocabulary import CHARACTERS, spell

TEXT = "a one"
PLACES = [5, 10, 20, 30, 40]


def emissions() -> np.ndarray:
    log_p = np.full((60, len(CHARACTERS) + 1), -8.0, dtype=np.float32)
    log_p[:, 0] = -0.1
    for place, letter in zip(PLACES, spell(TEXT), strict=True):
        log_p[place, 0], log_p[place, letter] = -5.0, -0.2
    return log_p


def test_letters_are_found_where_they_are_likely() -> None:
    places, scores = force(emissions(), spell(TEXT))
    assert places == PLACES
    assert scores == pytest.approx([-0.2] * 5)


def test_words_begin_and_end_between_letters() -> None:
    places, scores = force(emissions(), spell(TEXT))
    spans = list(word_spans(TEXT, places, scores))
    assert [word for word, _, _ in spans] == ["a", "one"]
    _, start_s, end_s = spans[1]
    assert 0.1 < start_s < 0.4 < 0.8 < end_s < 1.2


def test_too_many_letters_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        force(emissions()[:3], spell(TEXT))
