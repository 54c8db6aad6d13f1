"""Mutated recordings through the decoding children, as many as there is time for.

    python -m tests.fuzz --count 100000

Each is decoded within limits or refused with an error that the interface answers with a 400. What
is anything else (a 5xx, an answer that is no sound, a file that takes as long as it is allowed) is
written down with the number that makes it again: `--first NUMBER --count 1`.
"""

from __future__ import annotations

import asyncio
import time
from typing import Annotated

import psutil
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests.fuzz.feeding import fuzz

console = Console()


def run(
    count: Annotated[int, typer.Option(min=1, help="files")] = 100_000,
    first: Annotated[int, typer.Option(min=0, help="number of the first")] = 0,
    seed: Annotated[int, typer.Option(help="of all of them")] = 0,
) -> None:
    """Decode mutated recordings, and say what should not have come of them."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    began = time.monotonic()
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        bar = progress.add_task("mutated files", total=count)
        findings = asyncio.run(fuzz(seed, first, count, lambda: progress.advance(bar)))
    seconds = time.monotonic() - began
    for outcome, times in findings.outcomes.most_common():
        console.print(f"{times:8d} x {outcome}", markup=False)
    left = len(psutil.Process().children(recursive=True))
    console.print(f"{count} files in {seconds:.0f} s; {left} children left")
    for finding in findings.bad:
        console.print(finding, style="red", markup=False)
    raise typer.Exit(1 if findings.bad or left else 0)


if __name__ == "__main__":
    typer.run(run)
