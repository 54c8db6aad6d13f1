from __future__ import annotations

import pytest

from service.api.admission import AudioBudget
from service.errors import EngineBusy
from service.metrics import Metrics


def test_what_is_reserved_comes_back() -> None:
    metrics = Metrics()
    budget = AudioBudget(100.0, metrics.queue_audio_seconds, lambda: 7.0)
    first, second = budget.reserve(), budget.reserve()
    first.grow_to(10.0)
    first.grow_to(60.0)
    first.grow_to(20.0)
    second.grow_to(40.0)
    assert budget.held_s == 100.0
    assert b"earshot_queue_audio_seconds 100.0" in metrics.render()
    first.release()
    first.release()
    assert budget.held_s == 40.0
    second.release()
    assert budget.held_s == 0.0


def test_more_than_the_budget_is_busy_and_names_it() -> None:
    budget = AudioBudget(100.0, Metrics().queue_audio_seconds, lambda: 7.0)
    first, second = budget.reserve(), budget.reserve()
    first.grow_to(70.0)
    with pytest.raises(
        EngineBusy, match="70 s of audio, and with 31 s more the limit of 100 s"
    ) as caught:
        second.grow_to(31.0)
    assert caught.value.retry_after_s == 7.0
    second.grow_to(30.0)


def test_a_released_reservation_takes_nothing() -> None:
    budget = AudioBudget(100.0, Metrics().queue_audio_seconds, lambda: 7.0)
    reservation = budget.reserve()
    reservation.release()
    reservation.grow_to(50.0)
    assert budget.held_s == 0.0
