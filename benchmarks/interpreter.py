"""Who holds the interpreters' locks under load, and how late the event loop is meanwhile.

    pip install py-spy
    python -m benchmarks.interpreter --random-tiny
    python -m benchmarks.interpreter

The service's process and its engine's have an interpreter with a lock of its own each. One py-spy
each looks at it a hundred times a second and notes which thread holds the lock. A share is of all
looks at that process, so those of a process add up to how often anybody held its lock. Attaching to
a process may need root.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import httpx
import typer
from rich.console import Console
from rich.table import Table

from benchmarks import vitals
from benchmarks.load import Level, Work, load, the_work
from benchmarks.own import processes_of

LOOKS_A_SECOND = 100
PROCESSES = ("service", "engine")
"""As `processes_of` returns them."""
QUANTILES = (0.5, 0.9, 0.99)
console = Console()


def holders(raw: str, seconds: float) -> dict[str, float]:
    """Return each thread's share of looks in which it held the lock, from py-spy's raw format.

    Threads are called what Python calls them; the first frame of a stack says which it is.
    """
    counts: Counter[str] = Counter()
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        thread = stack.partition(";")[0]
        counts[thread.partition(": ")[2] or thread] += int(count)
    looks = LOOKS_A_SECOND * seconds
    return {thread: count / looks for thread, count in counts.most_common()}


@contextlib.contextmanager
def watched(pid: int, seconds: int, to: Path) -> Iterator[None]:
    """Record who holds a process's lock while the context lasts, and until the recording is over.

    Raises:
        typer.Exit: if there is no py-spy, or it may not look.
    """
    found = shutil.which("py-spy")
    if found is None:
        typer.echo("py-spy is not installed: pip install py-spy", err=True)
        raise typer.Exit(1)
    command = [found, "record", "--pid", str(pid), "--gil", "--threads", "--format", "raw"]
    command += ["--rate", str(LOOKS_A_SECOND), "--duration", str(seconds), "--output", str(to)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield
        if process.wait():
            raise typer.Exit(1)
    finally:
        process.kill()


async def load_for(work: Work, level: Level, seconds: float) -> None:
    """Send one request after the other from each client until the time is over."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await load(work, level, requests=1_000_000)


def lags(before: dict[float, float], after: dict[float, float]) -> str:
    """Return in words how late the event loop was, by the bounds of buckets."""
    late = ((q, vitals.lag_at_most_s(before, after, q)) for q in QUANTILES)
    return ", ".join(f"p{100 * q:g} <= {1000 * seconds:g} ms" for q, seconds in late)


def run(
    clients: Annotated[int, typer.Option(min=1, help="at once")] = 16,
    seconds: Annotated[int, typer.Option(min=1, help="of load")] = 30,
    random_tiny: Annotated[
        bool, typer.Option("--random-tiny", help="random weights, windows of 30 s")
    ] = False,
) -> None:
    """Print each thread's share of its interpreter's lock, and the lag of the event loop."""
    with the_work(None, None, random_tiny) as work, tempfile.TemporaryDirectory() as folder:
        assert work.pid is not None
        client = httpx.Client(base_url=work.url)
        level = Level(clients)
        raws = [Path(folder) / name for name in PROCESSES]
        before = vitals.lag_buckets(vitals.ask(client))
        with contextlib.ExitStack() as watching:
            for process, raw in zip(processes_of(work.pid), raws, strict=True):
                watching.enter_context(watched(process.pid, seconds, raw))
            asyncio.run(load_for(work, level, seconds))
        after = vitals.lag_buckets(vitals.ask(client))
        title = f"{clients} clients, {len(level.answers)} answers"
        table = Table("process", "thread", title=title)
        table.add_column("holds the lock", justify="right")
        for raw in raws:
            for thread, share in holders(raw.read_text(encoding="utf-8"), seconds).items():
                table.add_row(raw.name, thread, f"{share:.1%}")
        console.print(table)
        console.print(f"event loop late by {lags(before, after)}", markup=False)


if __name__ == "__main__":
    typer.run(run)
