"""Which of several ways to compute the same is the fastest on this machine, now.

Knows nothing about what is computed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

_TURNS = 7


def best_seconds(*calls: Callable[[], object]) -> list[float]:
    """Return the shortest time of each, in seconds; they take turns, so load hits all alike."""
    best = [math.inf] * len(calls)
    for _ in range(_TURNS):
        for index, call in enumerate(calls):
            began = time.perf_counter()
            call()
            best[index] = min(best[index], time.perf_counter() - began)
    return best
