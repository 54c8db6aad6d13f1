from __future__ import annotations

import os
from collections import Counter

import pytest
import typer

from benchmarks.overload import Level, cores_apart, verdict


def level(n_answered: int, latency_s: float = 1.0, **failures: int) -> Level:
    return Level(
        "a level",
        10.0,
        seconds=40.0,
        latencies_s=[latency_s] * n_answered,
        failures=Counter(failures),
    )


@pytest.mark.parametrize(
    ("beyond", "code", "says"),
    [
        (level(100), 0, "held: 100.0% of the capacity"),
        (level(96), 0, "held: 96.0%"),
        (level(94), 1, "NOT held: 94.0%"),
        (level(100, latency_s=1.4), 0, "1.40 x that at capacity"),
        (level(100, latency_s=1.6), 1, "NOT held"),
        (level(100, ReadError=1), 1, "1 failures"),
    ],
)
def test_throughput_latency_and_failures_decide(beyond: Level, code: int, says: str) -> None:
    said: list[str] = []
    assert verdict(level(100), beyond, said.append) == code
    assert says in said[-1]


def test_only_what_falls_into_the_measured_seconds_of_a_round_counts() -> None:
    measured = Level("a level", 10.0)
    ends = [measured.begin() for _ in range(2)]
    assert measured.seconds == 20.0
    for end in ends[1:]:
        assert [measured.counts(at) for at in (end - 10.1, end - 9.9, end - 0.1, end)] == [
            False, True, True, False,
        ]  # fmt: skip


def test_the_generator_has_the_last_core_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {5, 0, 2}, raising=False)
    assert cores_apart() == ({0, 2}, {5})


def test_one_core_cannot_be_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3}, raising=False)
    with pytest.raises(typer.BadParameter, match="needs Linux and two cores"):
        cores_apart()
