from __future__ import annotations

import asyncio
import time

from service.api.pulse import watch
from service.metrics import Metrics


def test_what_holds_the_loop_is_measured() -> None:
    metrics = Metrics()

    async def main() -> None:
        watching = asyncio.create_task(watch(metrics, interval_s=0.01))
        await asyncio.sleep(0)
        time.sleep(0.3)  # noqa: ASYNC251 - it is to be noticed
        while not value("count"):  # noqa: ASYNC110 - the task makes it true
            await asyncio.sleep(0.001)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    def value(what: str) -> float:
        return metrics.registry.get_sample_value(f"earshot_event_loop_lag_seconds_{what}") or 0.0

    asyncio.run(main())
    assert value("sum") >= 0.28
    assert metrics.registry.get_sample_value("earshot_event_loop_tasks") == 2
