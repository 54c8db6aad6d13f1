from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message

from service.api.disconnect import race
from service.api.errors import ClientDisconnected


async def never() -> Message:
    await asyncio.Event().wait()
    raise AssertionError


async def gone() -> Message:
    return {"type": "http.disconnect"}


def test_the_result_is_returned() -> None:
    async def work() -> int:
        await asyncio.sleep(0)
        return 7

    assert asyncio.run(race(never, work())) == 7


def test_an_error_of_the_work_is_raised() -> None:
    async def work() -> int:
        raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"):
        asyncio.run(race(never, work()))


def test_work_is_cancelled_and_over_when_the_client_leaves() -> None:
    trace: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            trace.append("cleaned up")

    with pytest.raises(ClientDisconnected):
        asyncio.run(race(gone, work()))
    assert trace == ["cleaned up"]


def test_cancelling_the_race_cancels_the_work() -> None:
    trace: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            trace.append("cleaned up")

    async def scenario() -> None:
        task = asyncio.create_task(race(never, work()))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())
    assert trace == ["cleaned up"]
