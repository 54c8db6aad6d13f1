"""Load a real service with 1, 4, 8 and 16 clients at once, and print what each of them waits.

Every client posts one recording after the other to `/transcribe` and reads the events. Without
`--url` a service is started for the run, with the model and device of the `EARSHOT_*` variables.

    python -m benchmarks.load
    python -m benchmarks.load --url http://127.0.0.1:8000 --clients 32 --requests 200 talk.mp3
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import httpx
import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks.own import own_service
from benchmarks.recordings import SAMPLES
from service.cli.client import TIMEOUT, RemoteError, transcribe

TABLE_WIDTH = 110
"""Where there is no terminal that would say how wide it is."""
console = Console()


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request got.

    Attributes:
        latency_s: from sending to the last event.
        first_token_s: from sending to the first token; None if there was none.
        tokens: events called `token`.
        windows: windows of audio that they came from.
        audio_s: seconds of audio in the file.
    """

    latency_s: float
    first_token_s: float | None
    tokens: int
    windows: int
    audio_s: float


@dataclass(slots=True)
class Level:
    """All answers at one number of clients."""

    clients: int
    answers: list[Answer] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    wall_s: float = 0.0

    def rate(self, amount: float) -> str:
        """Return an amount a second of wall time."""
        return f"{amount / self.wall_s:.1f}"

    def row(self) -> list[str]:
        """Return the cells of the table."""
        answers = self.answers
        first = [answer.first_token_s for answer in answers if answer.first_token_s is not None]
        return [
            str(self.clients),
            str(len(answers)),
            str(len(self.failures)),
            _milliseconds([answer.latency_s for answer in answers]),
            _milliseconds(first),
            self.rate(sum(answer.tokens for answer in answers)),
            self.rate(sum(answer.windows for answer in answers)),
            self.rate(sum(answer.audio_s for answer in answers)),
        ]


def _milliseconds(seconds: Sequence[float]) -> str:
    """Median / 95th percentile."""
    if not seconds:
        return "-"
    if len(seconds) == 1:
        return f"{seconds[0] * 1000:.0f}"
    percentiles = statistics.quantiles(seconds, n=20, method="inclusive")
    return f"{statistics.median(seconds) * 1000:.0f} / {percentiles[-1] * 1000:.0f}"


async def ask(client: httpx.AsyncClient, url: str, path: Path) -> Answer:
    """Transcribe one file and time it."""
    start = time.perf_counter()
    first_token_s = None
    tokens, audio_s, windows = 0, 0.0, set[int]()
    async for event in transcribe(client, url, path, {}):
        match event["type"]:
            case "started":
                audio_s = event["duration_s"]
            case "token":
                first_token_s = first_token_s or time.perf_counter() - start
                tokens += 1
                windows.add(event["window"])
    return Answer(time.perf_counter() - start, first_token_s, tokens, len(windows), audio_s)


async def load(url: str, level: Level, files: Sequence[Path], requests: int) -> None:
    """Fill in a level: so many clients share out so many requests."""
    queue = iter(list(itertools.islice(itertools.cycle(files), requests)))
    limits = httpx.Limits(max_connections=level.clients)
    progress = Progress(
        SpinnerColumn(), TextColumn(f"{level.clients:3d} clients"), MofNCompleteColumn(),
        TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip
    async with httpx.AsyncClient(timeout=TIMEOUT, limits=limits) as client:
        with contextlib.suppress(RemoteError):  # not counted: it warms up
            await ask(client, url, files[0])
        with progress:
            task = progress.add_task("", total=requests)

            async def work() -> None:
                for path in queue:
                    try:
                        level.answers.append(await ask(client, url, path))
                    except (RemoteError, httpx.TransportError) as error:
                        level.failures.append(str(error) or type(error).__name__)
                    progress.advance(task)

            start = time.perf_counter()
            await asyncio.gather(*(work() for _ in range(level.clients)))
            level.wall_s = time.perf_counter() - start


def run(
    files: Annotated[list[Path] | None, typer.Argument(help="recordings; samples/ if none")] = None,
    url: Annotated[str | None, typer.Option(help="of a running service")] = None,
    clients: Annotated[list[int] | None, typer.Option(help="1, 4, 8 and 16 if not given")] = None,
    requests: Annotated[int, typer.Option(help="in all, at each number of clients")] = 64,
) -> None:
    """Measure latency and throughput of a service."""
    recordings = files or sorted(SAMPLES.glob("*.wav"))
    table = Table(title=f"{requests} requests, {len(recordings)} recordings in turn")
    for heading in (
        "clients", "answers", "failures", "latency ms\np50 / p95", "first token ms\np50 / p95",
        "tokens/s", "windows/s", "audio s/s",
    ):  # fmt: skip
        table.add_column(heading, justify="right", no_wrap=True)
    levels = [Level(count) for count in clients or (1, 4, 8, 16)]
    with contextlib.nullcontext() if url else own_service(console) as own:
        address = own.url if own else url or ""
        for level in levels:
            asyncio.run(load(address, level, recordings, requests))
            table.add_row(*level.row())
    if not console.is_terminal:
        console.width = TABLE_WIDTH
    console.print(table)
    failures = {failure for level in levels for failure in level.failures}
    for failure in sorted(failures):
        console.print(f"failed: {failure}", style="red", markup=False)
    if failures:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(run)
