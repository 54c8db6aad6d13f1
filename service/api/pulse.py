"""How late the event loop is, measured where that matters: on the loop itself.

Whatever holds the loop holds up every client at once, and shows here. Knows nothing about what
does so.
"""

from __future__ import annotations

import asyncio

from service.metrics import Metrics

INTERVAL_S = 0.25


async def watch(metrics: Metrics, interval_s: float = INTERVAL_S) -> None:
    """Measure until cancelled.

    Args:
        metrics: where the lag and the number of tasks are noted.
        interval_s: between two measurements.
    """
    now = asyncio.get_running_loop().time
    while True:
        due_s = now() + interval_s
        await asyncio.sleep(interval_s)
        metrics.event_loop_lag.observe(max(0.0, now() - due_s))
        metrics.event_loop_tasks.set(len(asyncio.all_tasks()))
