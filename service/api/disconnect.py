"""Work that stops when its client leaves. Knows nothing about what the work is."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

from service.api.errors import ClientDisconnected

T = TypeVar("T")


async def until_disconnect(receive: Receive) -> None:
    """Return when the client has left. Call it after the body was read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def race(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of `work`, or cancel it when the client leaves.

    Raises:
        ClientDisconnected: if the client left first.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(until_disconnect(receive))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return await working
        raise ClientDisconnected
    finally:
        await _cancel(watching)
        await _cancel(working)


async def _cancel(task: asyncio.Future[Any]) -> None:
    """Cancel a task and wait until it has ended; its own outcome was looked at, or is void."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
