"""What it costs to align a text with a window: beside the pass through the decoder, and with it.

python -m benchmarks.alignment

On one core, at the size of whisper-tiny, for texts of several lengths. First the part on the
attention (softmax, standardised, median, mean of the heads) and the path through it; then all of
it, with the teacher-forced pass: texts one after the other, and several in one pass. In CPU time of
this process, which others on the machine hardly change.
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

from benchmarks.random_model import TINY
from service.decoding.alignment import attention_matrix
from service.decoding.dtw import token_starts
from service.decoding.params import AlignParams
from service.engine.aligner import Aligner
from service.engine.types import AlignStart
from service.model import KVCache, WhisperModel

N_PROMPT = 4
"""<|startoftranscript|>, language, task, <|notimestamps|>."""
N_FRAMES = 1500
TOGETHER = (1, 2, 4, 8)
EOT = 50_257


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
    """Print both tables in Markdown."""
    torch.set_num_threads(1)
    console = Console()
    console.print(after_the_pass(heads, repeats))
    console.print(with_the_pass(heads, repeats))


def after_the_pass(heads: int, repeats: int) -> Table:
    """Return what is done with the heads' scores, for texts of several lengths."""
    generator = torch.Generator().manual_seed(0)
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
    return table


def with_the_pass(heads: int, repeats: int) -> Table:
    """Return the whole alignment of a text, alone and in one pass with others like it."""
    n_windows = max(TOGETHER)
    torch.manual_seed(0)
    model = WhisperModel(TINY).requires_grad_(False).eval()
    cache = KVCache(TINY, n_windows, n_windows)
    cache.cross.normal_()
    for slot in range(n_windows):
        cache.write_cross(slot, cache.cross[:, :, slot].clone())
    watched = [(layer, head) for layer in (3, 2) for head in range(TINY.n_text_head)][:heads]
    aligner = Aligner(model, cache, watched, EOT)
    columns = [f"{n} in a pass" for n in TOGETHER]
    table = Table("tokens in 30 s", *columns, title="CPU ms a text with the pass, one core")
    for n_tokens in track((10, 25, 50, 100, 200), console=Console(stderr=True)):
        text = AlignParams(tuple(range(N_PROMPT)), tuple(range(100, 100 + n_tokens)), 2 * N_FRAMES)
        starts = [AlignStart(n, n, text) for n in range(n_windows)]
        spent: dict[int, list[float]] = {n: [] for n in TOGETHER}
        for number in range(max(1, repeats // 5) + 1):
            for aligner.together in TOGETHER:
                began = time.process_time()
                with torch.inference_mode():
                    aligner.align(starts)
                if number:
                    spent[aligner.together].append(1e3 * (time.process_time() - began) / n_windows)
        table.add_row(str(n_tokens), *(f"{statistics.median(spent[n]):.1f}" for n in TOGETHER))
    return table


if __name__ == "__main__":
    typer.run(main)
