"""What is fast is told from what is slow."""

from __future__ import annotations

import time
from functools import partial

from service.model.race import best_seconds


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
