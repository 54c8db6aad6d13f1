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


def best_seconds(*calls: Callable[[], object]) -> list[float]:
    """Return the shortest time of each, in seconds; they take turns, so load hits all alike."""
    best = [math.inf] * len(calls)
    for _ in range(_TURNS):
        for index, call in enumerate(calls):
            began = time.perf_counter()
            call()
            best[index] = min(best[index], time.perf_counter() - began)
    return best


def is_clearly_faster(call: Callable[[], object], other: Callable[[], object]) -> bool:
    """Return whether a call is at least 1.25 times as fast as another one, timed now.

    They have one thread. With more, a call ends when the last of them has had its turn, so that on
    a machine with other work all calls take as long as that, and the answer is a matter of luck.
    """
    with _one_thread():
        call_s, other_s = best_seconds(call, other)
    return other_s > _CLEARLY * call_s


@contextmanager
def _one_thread() -> Iterator[None]:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)
