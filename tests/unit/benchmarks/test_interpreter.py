from __future__ import annotations

from math import inf

import pytest

from benchmarks.interpreter import holders, lags

RAW = """\
thread (0x7F01): engine;_run (engine.py:1);step (core.py:2) 30
thread (0x7F01): engine;_run (engine.py:1);decode (runner.py:3) 10
thread (0x7F02): MainThread;run (server.py:4) 5
"""


def test_who_holds_the_lock_is_told_by_thread_as_a_share_of_all_looks() -> None:
    assert holders(RAW, seconds=2) == pytest.approx({"engine": 0.2, "MainThread": 0.025})


def test_lag_is_told_by_what_came_in_between() -> None:
    before = {0.001: 5.0, 0.1: 5.0, inf: 5.0}
    after = {0.001: 95.0, 0.1: 105.0, inf: 105.0}
    assert lags(before, after) == "p50 <= 1 ms, p90 <= 1 ms, p99 <= 100 ms"
