"""An engine that runs over a fake runner, with a deadline for whatever is done to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from service.engine.core import EngineCore
from service.engine.engine import Engine, EngineConfig, Session
from service.engine.hosts import ThreadHost
from service.metrics import Metrics
from tests.unit.engine.fakes import FakeRunner, params, scheduler, window

DEADLINE_S = 60.0


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(main(), DEADLINE_S))


@asynccontextmanager
async def started(
    runner: FakeRunner, *, max_requests: int = 64, metrics: Metrics | None = None
) -> AsyncIterator[Engine]:
    core = EngineCore(scheduler(runner.windows, runner.rows, runner.encode_batch), runner)
    engine = Engine(ThreadHost(core), config=EngineConfig(max_requests), metrics=metrics)
    engine.start()
    await engine.until_ready()
    try:
        yield engine
    finally:
        if runner.gate is not None:
            runner.gate.set()
        await engine.stop(0)


async def until(condition: Callable[[], object]) -> None:
    """Poll; the test's own deadline ends it."""
    while not condition():  # noqa: ASYNC110 - another thread makes it true
        await asyncio.sleep(0.001)


async def all_free(engine: Engine) -> None:
    await until(
        lambda: (
            engine.stats()["window_slots_used"] == 0
            and engine.stats()["decoder_rows_used"] == 0
            and engine.stats()["windows_waiting"] == 0
        )
    )


async def transcribe(session: Session, name: int, max_tokens: int = 5) -> list[int]:
    async with session.window(window(name)) as lease:
        return [step.token_id async for step in lease.decode(params(max_tokens=max_tokens))]
