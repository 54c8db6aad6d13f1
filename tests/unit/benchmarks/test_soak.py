"""What the soak test concludes from what it saw."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from benchmarks.soak import LEAST_RESTS, MAX_SLOPE_MB_PER_MIN, WARM_UP_S, Soak, verdict
from benchmarks.vitals import HELD, POOL_THREADS, Vitals, lag_at_most_s, slope_mb_per_min

IDLE = Vitals(0.0, 700.0, 12, 14, 2, 3, dict.fromkeys(HELD, 0.0))
INFINITY = float("inf")


def rests(mb_per_min: float, first_s: float = 0.0, n: int = 40) -> list[Vitals]:
    chance = random.Random(n)
    looks = []
    for place in range(n):
        at_s = first_s + 20.0 * place
        memory_mb = 700.0 + mb_per_min * (at_s - first_s) / 60 + chance.gauss(0, 0.5)
        looks.append(replace(IDLE, at_s=at_s, memory_mb=memory_mb))
    return looks


@pytest.mark.parametrize("mb_per_min", [-2.0, 0.0, 0.3, 5.0])
def test_the_slope_is_that_of_the_line_in_the_noise(mb_per_min: float) -> None:
    looks = rests(mb_per_min)
    looks[7] = replace(looks[7], memory_mb=2000.0)  # one look at a bad moment decides nothing
    assert slope_mb_per_min(looks) == pytest.approx(mb_per_min, abs=0.1)


def test_a_service_that_is_as_it_was_held() -> None:
    assert verdict(Soak(IDLE, rests(0.0), lag_s=0.1), Counter(), 0.25) == []


def test_growth_is_judged_after_the_warm_up_only() -> None:
    filling = [*rests(50.0, n=12), *rests(0.0, first_s=WARM_UP_S + 1)]
    assert not verdict(Soak(IDLE, filling), Counter(), 0.25)
    growing = rests(2 * MAX_SLOPE_MB_PER_MIN, first_s=WARM_UP_S + 1)
    [why] = verdict(Soak(IDLE, growing), Counter(), 0.25)
    assert "memory grows by" in why
    assert not verdict(Soak(IDLE, growing[: LEAST_RESTS - 1]), Counter(), 0.25)


def test_surprises_leaks_and_lag_are_named() -> None:
    seen = Soak(IDLE, rests(0.0), leaks=["1 more threads", "1 more threads"], lag_s=0.5)
    why = verdict(seen, Counter({"stream: 500": 3}), 0.25)
    assert why[:2] == ["3 x stream: 500", "left after a round: 2 x 1 more threads"]
    assert "0.5 s late" in why[2]
    assert len(why) == 3


def test_threads_of_the_pool_are_no_leak_and_more_are() -> None:
    assert replace(IDLE, threads=IDLE.threads + POOL_THREADS).beyond(IDLE) == []
    more = IDLE.threads + POOL_THREADS + 1
    assert replace(IDLE, threads=more).beyond(IDLE) == [f"{POOL_THREADS + 1} more threads"]


@pytest.mark.parametrize("name", ["descriptors", "children", "tasks"])
def test_one_more_is_a_leak_and_one_less_is_none(name: str) -> None:
    now = getattr(IDLE, name)
    assert replace(IDLE, **{name: now + 1}).beyond(IDLE) == [f"1 more {name}"]
    assert replace(IDLE, **{name: now - 1}).beyond(IDLE) == []


@pytest.mark.parametrize("name", HELD)
def test_whatever_is_held_at_rest_is_a_leak(name: str) -> None:
    held = replace(IDLE, held=dict(IDLE.held) | {name: 1.0})
    assert held.beyond(IDLE) == held.beyond(held) == [f"1 in {name}"]


def test_the_lag_is_that_of_the_time_between_two_looks() -> None:
    before = {0.01: 0.0, 0.1: 50.0, INFINITY: 100.0}
    after = {0.01: 980.0, 0.1: 1050.0, INFINITY: 1100.0}
    assert lag_at_most_s(before, after, 0.9) == 0.01
    assert lag_at_most_s(before, after, 0.99) == 0.1
    assert lag_at_most_s(before, after | {INFINITY: 1200.0}, 0.99) == INFINITY
