from __future__ import annotations

import numpy as np
import pytest

from service.audio.pauses import best_pause
from service.audio.vad import Span, SpeechMap, SpeechModels
from tests.unit.audio.test_vad import Loud, loud_at


@pytest.mark.parametrize(
    ("speech", "expected"),
    [
        ([(0.0, 16.0), (17.0, 22.0), (22.5, 30.0)], 16.5),  # the longer of two late ones
        ([(0.0, 16.0), (17.0, 22.0), (23.0, 30.0)], 22.5),  # the later of two alike
        ([(0.0, 4.0), (8.0, 20.0), (20.5, 30.0)], 20.25),  # a late one, however long an early one
        ([(0.0, 4.0), (8.0, 10.0), (10.5, 30.0)], 10.25),  # the last of early ones
        ([(0.0, 28.0)], 29.0),  # silence at the end
        ([(3.0, 30.0)], None),  # silence at the start is no pause between anything
        ([(0.0, 30.0)], None),
    ],
)
def test_the_cut_is_in_the_middle_of_the_best_pause(
    speech: list[Span], expected: float | None
) -> None:
    assert best_pause(speech, 0.0, 30.0) == expected


def test_speech_without_a_pause_has_a_quietest_moment() -> None:
    class Hesitating(Loud):
        """Sure of speech, but less so for a moment."""

        def probability(self, chunk: object) -> float:
            self.heard += 1
            return 0.7 if 600 <= self.heard <= 603 else 0.95

    speech = SpeechMap(SpeechModels(Hesitating), loud_at(30, (0, 30)))
    assert speech.spans(0, 30) == [(0, 30)]
    assert speech.quietest(15, 30) == pytest.approx(601 * 0.032, abs=0.05)
    assert 0 <= speech.quietest(0, 10) <= 10
    assert speech.quietest(40, 50) == 40, "there is nothing after the end"


def test_what_was_heard_stays_known_without_the_samples() -> None:
    speech = SpeechMap(SpeechModels(Loud), loud_at(10, (2, 3)))
    before = speech.spans(0, 10)
    speech.close()
    assert np.allclose(speech.spans(0, 10), before)
