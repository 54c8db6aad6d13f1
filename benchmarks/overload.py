"""Offer a real service ten times what it can do, and see whether it still does what it can.

As many clients as the service admits post one recording after the other: what comes out is its
capacity. Then requests arrive at a fixed rate, `--times` the capacity, whether earlier ones are
answered or not, and who is refused does not come again. Both are done in turn, `--rounds` times, so
that a machine that changes its pace meanwhile changes both. The throughput should be the capacity,
the latency of those who are admitted what it is at capacity, where every place is taken too, and
every other answer a 429.

Without `--url` a service is started for the run, with the model and device of the `EARSHOT_*`
variables, or with random weights at the size of whisper-tiny. The generator takes from the service
what it measures, and more of it beyond capacity than at it, unless `--own-core` gives it the last
core for itself and the service the others (on Linux). Take figures where nothing else runs.

    python -m benchmarks.overload
    EARSHOT_MAX_REQUESTS=16 python -m benchmarks.overload --random-tiny --seconds 120
    EARSHOT_MAX_REQUESTS=16 python -m benchmarks.overload --own-core samples/seven.wav
    python -m benchmarks.overload --url http://127.0.0.1:8000 --seconds 60 --times 10 talk.mp3
"""

from __future__ import annotations

import asyncio
import itertools
import os
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, NamedTuple

import httpx
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from benchmarks.load import Work, the_work
from benchmarks.wire import Wire

TOLERANCE = 0.05
LATENCY_TOLERANCE = 0.5
"""Of the 95th percentile: those who are refused take time too."""
WARM_UP = 0.2
"""Share of a round's seconds that pass before it is measured: the queue has to fill."""
TIMEOUT_S = 600.0
TICK_S = 0.1
TABLE_WIDTH = 124
"""Where there is no terminal that would say how wide it is."""
console = Console()


@dataclass(slots=True)
class Level:
    """What came of the requests that ended within the measured seconds.

    Attributes:
        name: of the level.
        round_s: seconds that are measured in each round.
        seconds: that were measured so far.
        offered: requests sent in them.
        latencies_s: of those that were answered.
        refusals_s: the `Retry-After` of those that were refused.
        failures: the others, by what they got.
        options: of every request.
    """

    name: str
    round_s: float
    options: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    offered: int = 0
    latencies_s: list[float] = field(default_factory=list)
    refusals_s: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    _from: float = 0.0

    def begin(self) -> float:
        """Note that a round begins now; return when to stop sending."""
        self._from = time.perf_counter() + WARM_UP * self.round_s
        self.seconds += self.round_s
        return self._from + self.round_s

    @property
    def per_s(self) -> float:
        """Requests answered a second."""
        return len(self.latencies_s) / self.seconds

    @property
    def p95_s(self) -> float:
        """The 95th percentile of the latency of those that were answered; 0 if too few were."""
        return _percentiles(self.latencies_s)[-1] if len(self.latencies_s) > 1 else 0.0

    def counts(self, at: float) -> bool:
        """Whether a moment is in the measured seconds."""
        return self._from <= at < self._from + self.round_s

    async def ask(self, wire: Wire, audio: bytes) -> None:
        """Send one request and note what came of it."""
        began = time.perf_counter()
        self.offered += self.counts(began)
        try:
            reply = await wire.post("/transcribe", self.options, audio)
        except (OSError, EOFError) as error:
            self.failures[type(error).__name__] += 1
            return
        ended = time.perf_counter()
        if not self.counts(ended):
            return
        if reply.status == HTTPStatus.OK:
            self.latencies_s.append(ended - began)
        elif reply.status == HTTPStatus.TOO_MANY_REQUESTS:
            self.refusals_s.append(float(reply.headers["retry-after"]))
        else:
            self.failures[str(reply.status)] += 1

    def row(self, capacity: float) -> list[str]:
        """Return the cells of the table."""
        return [
            self.name,
            f"{self.offered / self.seconds:.1f}",
            f"{self.per_s:.2f}",
            f"{self.per_s / capacity:.1%}" if capacity else "-",
            str(len(self.refusals_s)),
            str(self.failures.total()),
            _spread(self.latencies_s, 1000.0),
            _spread(self.refusals_s, 1.0),
        ]


def _percentiles(values: Sequence[float]) -> list[float]:
    """The 5th, 10th ... 95th percentile."""
    return statistics.quantiles(values, n=20, method="inclusive")


def _spread(values: Sequence[float], unit: float) -> str:
    """Median / 95th percentile / maximum."""
    if len(values) < 2:
        return "-"
    shown = (statistics.median(values), _percentiles(values)[-1], max(values))
    return " / ".join(f"{unit * value:.0f}" for value in shown)


async def at_capacity(level: Level, wire: Wire, audio: Iterator[bytes], clients: int) -> None:
    """So many clients post one recording after the other: never more than are admitted."""
    end = level.begin()

    async def work() -> None:
        while time.perf_counter() < end:
            await level.ask(wire, next(audio))

    await asyncio.gather(*(work() for _ in range(clients)))


async def at_rate(level: Level, wire: Wire, audio: Iterator[bytes], per_s: float) -> None:
    """Requests arrive at equal distances, whatever became of the ones before."""
    end = level.begin()
    due = time.perf_counter()
    async with asyncio.TaskGroup() as arrivals:
        while due < end:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            arrivals.create_task(level.ask(wire, next(audio)))
            due += 1 / per_s


async def with_progress(level: Level, work: Awaitable[None]) -> None:
    """Show how far a round of a level is while it runs."""
    total_s = (1 + WARM_UP) * level.round_s
    began = time.perf_counter()
    with Progress(
        TextColumn(f"{level.name:>12}"), BarColumn(), TextColumn("{task.fields[seen]}"),
        TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal,
    ) as progress:  # fmt: skip
        bar = progress.add_task("", total=total_s, seen="")
        running = asyncio.ensure_future(work)
        while not running.done():
            await asyncio.wait((running,), timeout=TICK_S)
            seen = f"{len(level.latencies_s)} answered, {len(level.refusals_s)} refused"
            elapsed_s = time.perf_counter() - began
            progress.update(bar, completed=min(elapsed_s, total_s), seen=seen)
        await running


async def measure(
    work: Work, clients: int, seconds: float, times: float, rounds: int
) -> tuple[Level, Level]:
    """Return the level at capacity and the one beyond it, in turn round after round."""
    audio = itertools.cycle([path.read_bytes() for path in work.files])
    options = {**work.options, "stream": "false"}
    with closing(Wire(work.url, TIMEOUT_S)) as wire:
        names = ("capacity", f"{times:g} x")
        full, beyond = (Level(name, seconds / rounds, options) for name in names)
        for _ in range(rounds):
            before = len(full.latencies_s), len(beyond.latencies_s)
            await with_progress(full, at_capacity(full, wire, audio, clients))
            if not full.per_s:
                console.print(f"nothing was answered in {full.seconds:g} s: {dict(full.failures)}")
                raise typer.Exit(1)
            await with_progress(beyond, at_rate(beyond, wire, audio, times * full.per_s))
            n_full, n_beyond = (
                len(full.latencies_s) - before[0],
                len(beyond.latencies_s) - before[1],
            )
            console.print(f"{n_full} answered at capacity, {n_beyond} beyond it")
    return full, beyond


class Cores(NamedTuple):
    """Who runs where."""

    service: set[int]
    generator: set[int]


def cores_apart() -> Cores:
    """Return a core for the generator and the others for the service.

    Raises:
        typer.BadParameter: if there are no two, or the system does not say.
    """
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set[int]()
    if len(allowed) < 2:
        raise typer.BadParameter(f"--own-core needs Linux and two cores, and this has {allowed}")
    *others, last = sorted(allowed)
    return Cores(set(others), {last})


def run(
    files: Annotated[list[Path] | None, typer.Argument(help="recordings; samples/ if none")] = None,
    url: Annotated[str | None, typer.Option(help="of a running service, otherwise idle")] = None,
    seconds: Annotated[float, typer.Option(min=1, help="measured at each level")] = 60.0,
    times: Annotated[float, typer.Option(min=1, help="the capacity that is offered")] = 10.0,
    rounds: Annotated[int, typer.Option(min=1, help="in which both levels take turns")] = 4,
    random_tiny: Annotated[bool, typer.Option("--random-tiny", help="see above")] = False,
    own_core: Annotated[bool, typer.Option("--own-core", help="for the generator")] = False,
) -> None:
    """Measure the throughput of a service at its capacity and far beyond it."""
    if own_core and url:
        raise typer.BadParameter("--own-core is for a service that is started for the run")
    cores = cores_apart() if own_core else None
    if cores:
        os.sched_setaffinity(0, cores.service)  # which the service is born with
    with the_work(files, url, random_tiny) as work:
        if cores:
            os.sched_setaffinity(0, cores.generator)
            console.print(f"service on cores {cores.service}, generator on {cores.generator}")
        clients = httpx.get(f"{work.url}/health").json()["engine"]["max_requests"]
        full, beyond = asyncio.run(measure(work, clients, seconds, times, rounds))
    table = Table(title=f"{seconds:g} s at each level, {len(work.files)} recordings in turn")
    for heading in (
        "level", "offered/s", "answered/s", "of capacity", "refused", "failures",
        "latency ms\np50 / p95 / max", "Retry-After s\np50 / p95 / max",
    ):  # fmt: skip
        table.add_column(heading, justify="right", no_wrap=True)
    for level in (full, beyond):
        table.add_row(*level.row(full.per_s))
    if not console.is_terminal:
        console.width = TABLE_WIDTH
    console.print(table)
    raise typer.Exit(verdict(full, beyond))


def verdict(full: Level, beyond: Level, say: Callable[[str], None] = console.print) -> int:
    """Say whether the service held, and return the exit code."""
    share = beyond.per_s / full.per_s
    slower = beyond.p95_s / full.p95_s if full.p95_s else 1.0
    failures = full.failures + beyond.failures
    for what, count in sorted(failures.items()):
        say(f"failed: {count} x {what}")
    held = share >= 1 - TOLERANCE and slower <= 1 + LATENCY_TOLERANCE and not failures
    say(f"{'held' if held else 'NOT held'}: {share:.1%} of the capacity (at least "
        f"{1 - TOLERANCE:.0%}), latency p95 {slower:.2f} x that at capacity (at most "
        f"{1 + LATENCY_TOLERANCE:g} x), {failures.total()} failures")  # fmt: skip
    return 0 if held else 1


if __name__ == "__main__":
    typer.run(run)
