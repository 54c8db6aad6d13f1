"""Which of two ways to compute is the faster on this machine: some CPUs differ by a factor.

Knows nothing about what is computed, but that torch does it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

_TURNS = 7
_CLEARLY = 1.25


def best_seconds(
    *calls: Callable[[], object], clock: Callable[[], float] | None = None
) -> list[float]:
    """Return the shortest time of each, in seconds; they take turns, so load hits all alike.

    Args:
        calls: at least one.
        clock: what tells the time; `time.perf_counter` by default.
    """
    now = clock or time.perf_counter
    best = [math.inf] * len(calls)
    for _ in range(_TURNS):
        for index, call in enumerate(calls):
            began = now()
            call()
            best[index] = min(best[index], now() - began)
    return best


def is_clearly_faster(call: Callable[[], object], other: Callable[[], object]) -> bool:
    """Return whether a call is at least 1.25 times as fast as another one, timed now.

    They have one thread, and what counts is its CPU time. By the clock on the wall, a call that is
    about as long as a turn of the scheduler may wait in each of its tries for other work, and with
    more threads it ends when the last of them has had its turn: on a busy machine the answer would
    be a matter of luck.
    """
    with _one_thread():
        call_s, other_s = best_seconds(call, other, clock=time.thread_time)
    return other_s > _CLEARLY * call_s


@contextmanager
def _one_thread() -> Iterator[None]:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)
