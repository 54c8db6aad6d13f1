"""What is fast is told from what is slow."""

from __future__ import annotations

import time
from functools import partial

import pytest
import torch

from service.model.timing import best_seconds, is_clearly_faster


def test_each_call_has_its_own_shortest_time_and_they_take_turns() -> None:
    turns: list[str] = []

    def call(name: str, seconds: list[float]) -> None:
        turns.append(name)
        time.sleep(seconds.pop())

    slow, fast = [0.02] * 7, [0.03] * 6 + [0.0]
    slow_s, fast_s = best_seconds(partial(call, "slow", slow), partial(call, "fast", fast))
    assert turns == ["slow", "fast"] * 7
    assert fast_s < slow_s
    assert slow_s >= 0.02


@pytest.mark.parametrize(
    ("call_s", "faster"), [(1.0, True), (1.5, True), (1.9, False), (2.0, False)]
)
def test_clearly_faster_is_faster_by_a_quarter(
    monkeypatch: pytest.MonkeyPatch, call_s: float, *, faster: bool
) -> None:
    now = 0.0

    def call(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr("time.thread_time", lambda: now)
    assert is_clearly_faster(partial(call, call_s), partial(call, 2.0)) == faster


def test_waiting_for_a_turn_does_not_count() -> None:
    def waits_and_computes_little() -> None:
        time.sleep(0.01)

    assert is_clearly_faster(waits_and_computes_little, lambda: sum(range(30_000)))


def test_ways_are_compared_on_one_thread_and_the_others_come_back() -> None:
    n_threads: list[int] = []
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        is_clearly_faster(lambda: n_threads.append(torch.get_num_threads()), lambda: None)
        assert set(n_threads) == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
