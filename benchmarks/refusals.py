"""What a refusal costs: the CPU time of a service that has no place, and of who asks it.

    python -m benchmarks.refusals

A service with one place is started, with the built-in model, and the place is taken by a client
whose recording does not arrive. Others then post recordings one after another, each of which is a
429. The CPU time is that of the service's process and its engine's, and comes from the kernel.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import closing
from typing import Annotated
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.own import OwnService, cpu_time_s, own_service, processes_of
from benchmarks.wire import Wire

SIZES = (100, 64_000, 960_000)
"""Bytes of a recording: nearly none, 2 s and 30 s of 16 kHz in 16 bits."""
CLIENTS = 10
TIMEOUT_S = 60.0
DRIP_S = 1.0
"""Between two bytes of the recording that does not arrive."""
TOO_MANY = 429
console = Console()


@contextlib.asynccontextmanager
async def place_taken(url: str) -> AsyncIterator[None]:
    """Hold a place for as long as the context lasts, by a body that comes byte after byte."""
    where = urlsplit(url)
    _, writer = await asyncio.open_connection(where.hostname, where.port)
    writer.write(b"POST /transcribe HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n")

    async def drip() -> None:
        while True:
            writer.write(b"x")
            await asyncio.sleep(DRIP_S)

    dripping = asyncio.create_task(drip())
    try:
        yield
    finally:
        dripping.cancel()
        writer.close()


async def refused(wire: Wire, size: int, count: int) -> None:
    """Post so many recordings, by several clients.

    Raises:
        RuntimeError: if one of them is not refused.
    """
    body = bytes(size)

    async def one_by_one() -> None:
        for _ in range(count // CLIENTS):
            reply = await wire.post("/transcribe", {"stream": "false"}, body)
            if reply.status != TOO_MANY:
                raise RuntimeError(f"{reply.status} instead of {TOO_MANY}")

    await asyncio.gather(*(one_by_one() for _ in range(CLIENTS)))


async def measure(service: OwnService, count: int) -> list[tuple[int, float, float]]:
    """Return (bytes, ms of the service, ms of the client) of one refusal, for each size."""
    found = []
    processes = processes_of(service.pid)
    async with place_taken(service.url):
        for size in SIZES:
            with closing(Wire(service.url, TIMEOUT_S)) as wire:
                await wait_until_full(wire)
                await refused(wire, size, CLIENTS)  # not counted: it opens the connections
                before, own = cpu_time_s(processes), time.process_time()
                await refused(wire, size, count)
                took, own_took = cpu_time_s(processes) - before, time.process_time() - own
                found.append((size, 1000 * took / count, 1000 * own_took / count))
    return found


async def wait_until_full(wire: Wire) -> None:
    """Return once the place is taken."""
    while (await wire.post("/transcribe", {"stream": "false"}, b"no audio")).status != TOO_MANY:
        pass


def run(
    count: Annotated[int, typer.Option(min=CLIENTS, help="refusals of each size")] = 3000,
) -> None:
    """Print what a refusal costs, by the size of the recording."""
    with own_service(console, {"EARSHOT_MAX_REQUESTS": "1"}) as service:
        found = asyncio.run(measure(service, count))
    table = Table("bytes", title="CPU ms a refusal")
    for heading in ("service", "client"):
        table.add_column(heading, justify="right")
    for size, took, own_took in found:
        table.add_row(str(size), f"{took:.2f}", f"{own_took:.2f}")
    console.print(table)


if __name__ == "__main__":
    typer.run(run)
