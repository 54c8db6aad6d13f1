"""Mutated recordings through the decoding children, as many as there is time for.

    python -m tests.fuzz --count 100000

Each is decoded within limits or refused with an error that the interface answers with a 400. What
is anything else (a 5xx, an answer that is no sound, a file that takes as long as it is allowed) is
written down with the number that makes it again: `--first NUMBER --count 1 --executed`.

With `--wav` the files are WAV and are read in this process, and by the standard library's `wave`:
where both read one, they read the same.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated

import psutil
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests.fuzz.differential import compare_all
from tests.fuzz.feeding import Findings, fuzz

SAY_EVERY_S = 30.0
"""Where there is no terminal to draw a bar on."""
console = Console()


def until(end_s: float, numbers: Iterable[int]) -> Iterator[int]:
    """Yield numbers until the time is over."""
    for number in numbers:
        if time.monotonic() > end_s:
            return
        yield number


class Teller:
    """Says how far it is.

    Args:
        count: files in all.
        advance: the bar.
    """

    def __init__(self, count: int, advance: Callable[[], object]) -> None:
        self._count, self._advance = count, advance
        self._n_done = 0
        self._said_at = time.monotonic()

    def __call__(self) -> None:
        """Note one more file."""
        self._n_done += 1
        self._advance()
        now = time.monotonic()
        if not console.is_terminal and now - self._said_at > SAY_EVERY_S:
            self._said_at = now
            console.print(f"{self._n_done} of {self._count} files")


def summary(findings: Findings, seed: int, seconds: float) -> str:
    """Return in one line what came of it."""
    count = findings.outcomes.total()
    came = ", ".join(f"{times} x {what}" for what, times in findings.outcomes.most_common())
    pace = f"in {seconds:.0f} s ({count / seconds:.0f} a second)"
    return (
        f"{count} files of seed {seed} {pace}: {came}; "
        f"{findings.of_status('5')} x 5xx, {findings.of_status('408')} hangs"
    )


def run(
    count: Annotated[int, typer.Option(min=1, help="files")] = 100_000,
    first: Annotated[int, typer.Option(min=0, help="number of the first")] = 0,
    seed: Annotated[int, typer.Option(help="of all of them")] = 0,
    minutes: Annotated[float, typer.Option(min=0.01, help="after which no more are made")] = 600.0,
    executed: Annotated[
        bool, typer.Option("--executed", help="execute each child, as the service does, not fork")
    ] = False,
    wav: Annotated[bool, typer.Option("--wav", help="WAV in this process, beside `wave`")] = False,
) -> None:
    """Read mutated recordings, and say what should not have come of them."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    began = time.monotonic()
    numbers = until(began + 60 * minutes, range(first, first + count))
    findings = Findings()
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True,
        disable=not console.is_terminal,
    ) as progress:  # fmt: skip
        bar = progress.add_task("mutated files", total=count)
        tell = Teller(count, lambda: progress.advance(bar))
        if wav:
            compare_all(seed, numbers, findings, tell)
        else:
            asyncio.run(fuzz(seed, numbers, findings, tell, forked=not executed))
    left = len(psutil.Process().children(recursive=True))
    for finding in findings.bad:
        console.print(finding, style="red", markup=False)
    said = summary(findings, seed, time.monotonic() - began)
    console.print(f"{said}; {left} children left", markup=False, soft_wrap=True)
    raise typer.Exit(1 if findings.bad or left else 0)


if __name__ == "__main__":
    typer.run(run)
