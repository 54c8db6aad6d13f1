"""What it costs to align a text with a window, beside the pass through the decoder.

python -m benchmarks.alignment

On one core: the part on the attention (softmax, standardised, median, mean of the heads) and the
path through it, for texts of several lengths, by default at the size of whisper-tiny, whose
alignment heads are six. In CPU time of this process, which others on the machine hardly change.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from service.decoding.alignment import attention_matrix
from service.decoding.dtw import token_starts

N_PROMPT = 4
"""<|startoftranscript|>, language, task, <|notimestamps|>."""
N_FRAMES = 1500


def cpu_ms(work: Callable[[], object], repeats: int) -> float:
    """Return the median CPU time of some work, in milliseconds."""
    work()
    spent = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        spent.append(1e3 * (time.process_time() - began))
    return statistics.median(spent)


def main(
    heads: Annotated[int, typer.Option(help="Alignment heads of the model.")] = 6,
    repeats: Annotated[int, typer.Option(help="Of each measurement.")] = 51,
) -> None:
    """Print a table in Markdown."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    console = Console()
    table = Table("tokens in 30 s", "attention", "path", "together", title="CPU ms, one core")
    for n_tokens in track((25, 50, 75, 100, 150, 200), console=Console(stderr=True)):
        shape = (heads, N_PROMPT + n_tokens + 1, N_FRAMES)
        scores = 3 * torch.randn(shape, generator=generator)
        first = N_PROMPT - 1
        matrix = attention_matrix(scores, first)
        parts = [
            cpu_ms(partial(attention_matrix, scores, first), repeats),
            cpu_ms(partial(token_starts, matrix.numpy()), repeats),
        ]
        table.add_row(str(n_tokens), *(f"{ms:.2f}" for ms in (*parts, sum(parts))))
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
