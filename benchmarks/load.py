"""Load a real service with 1, 4, 8, 16 and 64 clients at once, and print what each of them waits.

Every client posts one recording after the other to `/transcribe` and reads the events. Without
`--url` a service is started for the run, with the model and device of the `EARSHOT_*` variables, or
with random weights at the size of whisper-tiny, which always says all that it may of a window.

    python -m benchmarks.load
    python -m benchmarks.load --random-tiny --requests 16
    python -m benchmarks.load --url http://127.0.0.1:8000 --clients 32 --requests 200 talk.mp3
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import httpx
import psutil
import typer
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks.own import cpu_time_s, own_service, processes_of
from benchmarks.recordings import SAMPLES, at_least, read, wav
from service.cli.client import TIMEOUT, RemoteError, transcribe

CLIENTS = (1, 4, 8, 16, 64)
WINDOW_S = 30.0
LOOK_S = 0.1
TABLE_WIDTH = 124
"""Where there is no terminal that would say how wide it is."""
HEADINGS = (
    "clients", "answers", "failures", "latency ms\np50 / p95", "first token ms\np50 / p95",
    "between tokens ms\np50 / p95", "tokens/s", "windows/s", "times\nreal time", "peak MB",
)  # fmt: skip
console = Console()


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request got.

    Attributes:
        latency_s: from sending to the last event.
        first_token_s: from sending to the first token; None if there was none.
        gaps_s: between two tokens of a window.
        tokens: events called `token`.
        windows: windows of audio that they came from.
        audio_s: seconds of audio in the file.
    """

    latency_s: float
    first_token_s: float | None
    gaps_s: list[float]
    tokens: int
    windows: int
    audio_s: float


@dataclass(slots=True)
class Level:
    """All answers at one number of clients.

    Attributes:
        clients: at once.
        answers, failures: to their requests.
        wall_s: from the first request to the last answer.
        peak_mb: resident memory of the service's process and its engine's, in sum, at the most;
            None of one that is not ours.
        loop_share: of the CPU time of both processes that the event loop took; None of one that is
            not ours.
    """

    clients: int
    answers: list[Answer] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    wall_s: float = 0.0
    peak_mb: float | None = None
    loop_share: float | None = None

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
            _milliseconds([gap for answer in answers for gap in answer.gaps_s], digits=1),
            self.rate(sum(answer.tokens for answer in answers)),
            self.rate(sum(answer.windows for answer in answers)),
            self.rate(sum(answer.audio_s for answer in answers)),
            "-" if self.peak_mb is None else f"{self.peak_mb:.0f}",
        ]


def _milliseconds(seconds: Sequence[float], digits: int = 0) -> str:
    """Median / 95th percentile."""
    if not seconds:
        return "-"
    if len(seconds) == 1:
        return f"{seconds[0] * 1000:.{digits}f}"
    percentiles = statistics.quantiles(seconds, n=20, method="inclusive")
    return f"{statistics.median(seconds) * 1000:.{digits}f} / {percentiles[-1] * 1000:.{digits}f}"


@dataclass(frozen=True, slots=True)
class Work:
    """What is asked of a service.

    Attributes:
        url: of the service.
        pid: of its process; None if that is not ours.
        files: recordings, taken in turn.
        options: of every request.
    """

    url: str
    pid: int | None
    files: Sequence[Path]
    options: Mapping[str, str]


async def ask(client: httpx.AsyncClient, work: Work, path: Path) -> Answer:
    """Transcribe one file and time it."""
    start = time.perf_counter()
    first_token_s = None
    tokens, audio_s = 0, 0.0
    last_at: dict[int, float] = {}
    gaps_s: list[float] = []
    async for event in transcribe(client, work.url, path, work.options):
        match event["type"]:
            case "started":
                audio_s = event["duration_s"]
            case "token":
                now = time.perf_counter()
                first_token_s = first_token_s or now - start
                window = event["window"]
                if window in last_at:
                    gaps_s.append(now - last_at[window])
                last_at[window] = now
                tokens += 1
    latency_s = time.perf_counter() - start
    return Answer(latency_s, first_token_s, gaps_s, tokens, len(last_at), audio_s)


async def load(work: Work, level: Level, requests: int) -> None:
    """Fill in a level: so many clients share out so many requests."""
    queue = iter(list(itertools.islice(itertools.cycle(work.files), requests)))
    limits = httpx.Limits(max_connections=level.clients)
    progress = Progress(
        SpinnerColumn(), TextColumn(f"{level.clients:3d} clients"), MofNCompleteColumn(),
        TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip
    async with httpx.AsyncClient(timeout=TIMEOUT, limits=limits) as client:
        with contextlib.suppress(RemoteError):  # not counted: it warms up
            await ask(client, work, work.files[0])
        with progress:
            task = progress.add_task("", total=requests)

            async def share() -> None:
                for path in queue:
                    try:
                        level.answers.append(await ask(client, work, path))
                    except (RemoteError, httpx.TransportError) as error:
                        level.failures.append(str(error) or type(error).__name__)
                    progress.advance(task)

            watching = asyncio.create_task(watch_memory(level, work.pid))
            before = cpu_s(work.pid)
            start = time.perf_counter()
            await asyncio.gather(*(share() for _ in range(level.clients)))
            level.wall_s = time.perf_counter() - start
            watching.cancel()
            if before is not None and (after := cpu_s(work.pid)) is not None:
                level.loop_share = (after[0] - before[0]) / (after[1] - before[1])


def cpu_s(pid: int | None) -> tuple[float, float] | None:
    """Return the CPU seconds of a service's event loop, and of its process and its engine's.

    The event loop is on the first thread. None if the service is not ours, or has ended.
    """
    if pid is None or not psutil.pid_exists(pid):
        return None
    processes = processes_of(pid)
    used = {t.id: t.user_time + t.system_time for t in processes[0].threads()}
    return used[pid], cpu_time_s(processes)


async def watch_memory(level: Level, pid: int | None) -> None:
    """Note the most memory that a service and its engine have until this is cancelled."""
    if pid is None:
        return
    processes = processes_of(pid)
    while True:
        now_mb = sum(each.memory_info().rss for each in processes) / 1e6
        level.peak_mb = max(level.peak_mb or 0.0, now_mb)
        await asyncio.sleep(LOOK_S)


@contextlib.contextmanager
def the_work(files: list[Path] | None, url: str | None, random_tiny: bool) -> Iterator[Work]:
    """Yield what to ask of which service, which runs for as long as the context lasts."""
    recordings = files or sorted(SAMPLES.glob("*.wav"))
    options: dict[str, str] = {}
    variables: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        if url:
            yield Work(url, None, recordings, options)
            return
        if random_tiny:
            from benchmarks.random_model import write_random_model  # noqa: PLC0415 - torch

            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            write_random_model(folder / "random-tiny")
            variables = {"EARSHOT_MODEL": str(folder / "random-tiny")}
            options = {"temperature": "0", "without_timestamps": "true"}
            recordings = files or [folder / "window.wav"]
            pieces = [read(path) for path in sorted(SAMPLES.glob("*.wav"))]
            (folder / "window.wav").write_bytes(wav(at_least(WINDOW_S, pieces)))
        own = stack.enter_context(own_service(console, variables))
        yield Work(own.url, own.pid, recordings, options)


def print_row(cells: Sequence[str]) -> None:
    """Print a row of a table for a page."""
    print("|", " | ".join(cells), "|", flush=True)  # rich would break the line


def print_table(levels: Sequence[Level], title: str) -> None:
    """Print the levels for a terminal."""
    table = Table(title=title)
    for heading in HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    for level in levels:
        table.add_row(*level.row())
    if not console.is_terminal:
        console.width = TABLE_WIDTH
    console.print(table)


def run(
    files: Annotated[list[Path] | None, typer.Argument(help="recordings; samples/ if none")] = None,
    url: Annotated[str | None, typer.Option(help="of a running service")] = None,
    clients: Annotated[list[int] | None, typer.Option(help="1, 4, 8, 16 and 64 if none")] = None,
    requests: Annotated[int, typer.Option(help="at each level; at least one a client")] = 64,
    random_tiny: Annotated[bool, typer.Option("--random-tiny", help="see above")] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="print the table for a page")
    ] = False,
) -> None:
    """Measure latency and throughput of a service."""
    levels = [Level(count) for count in clients or CLIENTS]
    with the_work(files, url, random_tiny) as work:
        if markdown:
            print_row([heading.replace("\n", " ") for heading in HEADINGS])
            print_row(["---:"] * len(HEADINGS))
        for level in levels:
            asyncio.run(load(work, level, max(requests, level.clients)))
            if markdown:
                print_row(level.row())
    if not markdown:
        print_table(levels, f"{requests} requests or more, {len(work.files)} recordings in turn")
        shares = [
            f"{level.loop_share:.1%} at {level.clients}"
            for level in levels
            if level.loop_share is not None
        ]
        if shares:
            console.print(
                "share of the event loop in the CPU time of the service and its engine:",
                ", ".join(shares),
            )
    failures = {failure for level in levels for failure in level.failures}
    for failure in sorted(failures):
        console.print(f"failed: {failure}", style="red", markup=False)
    if failures:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(run)
