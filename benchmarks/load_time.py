"""Load time and peak memory of the same weights as safetensors and as `.apr`, in one table.

python -m benchmarks.load_time

Random weights at the size of whisper-base. Each load runs in a process of its own, whose peak of
resident memory (VmHWM of Linux) is counted from where its imports left it; pages of a mapped file
count while they are mapped. The files were just written, so they come from the page cache.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from service.checkpoints import Checkpoint, build_model, load_checkpoint, save_hf_folder
from service.checkpoints.convert import Target, convert
from service.model import WhisperConfig, WhisperModel
from service.text.tokenizer import load_tokenizer

BUILTIN = Path(__file__).parents[1] / "service" / "builtin"
SIZES = {  # d_model, heads, layers, vocabulary
    "base": (512, 8, 6, 51_865),
    "tiny": (384, 6, 4, 51_865),
    "toy": (64, 2, 1, 1_802),
}
KINDS: dict[str, tuple[str, Target | None, str | None]] = {
    "safetensors f32": ("hf", None, None),
    ".apr f32": ("f32.apr", Target.APR_V2, None),
    ".apr f16": ("f16.apr", Target.APR_V2, "f16"),
    ".apr q8": ("q8.apr", Target.APR_V2, "q8"),
    ".apr q4": ("q4.apr", Target.APR_V2, "q4"),
    ".apr layout 1 f32": ("v1.apr", Target.APR_V1, None),
    ".apr layout 1 int8": ("v1-int8.apr", Target.APR_V1, "int8"),
}


def make_files(folder: Path, size: str) -> None:
    """Write the same random weights in every format."""
    d_model, n_head, n_layer, n_vocab = SIZES[size]
    ffn = 4 * d_model
    config = WhisperConfig(
        80, 1500, d_model, n_head, n_layer, ffn, n_vocab, 448, n_head, n_layer, ffn
    )
    torch.manual_seed(0)
    state = WhisperModel(config).requires_grad_(False).state_dict()
    save_hf_folder(folder / "hf", state, config, tokenizer=load_tokenizer(BUILTIN))
    checkpoint: Checkpoint = load_checkpoint(folder / "hf")
    for name, target, quantize in track(
        list(KINDS.values()), "writing", console=Console(stderr=True)
    ):
        if target is not None:
            convert(checkpoint, folder / name, target, quantize=quantize)


def load_once(path: str) -> dict[str, float]:
    """Load a model and say how long it took and what memory it needed, in a fresh process."""
    before = resident_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    began = time.perf_counter()
    build_model(load_checkpoint(path))
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "peak_mb": resident_mb("VmHWM") - before}


def resident_mb(field: str) -> float:
    """Return resident memory now (VmRSS) or at its peak (VmHWM).

    Not `getrusage`: what that counts begins with the peak of the process that started this one.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(rf"^{field}:\s+(\d+) kB", status, flags=re.MULTILINE)
    assert found is not None, "Linux only"
    return int(found[1]) * 1024 / 1e6


def measure(path: Path, runs: int) -> dict[str, Any]:
    """Return the median time, the largest peak, and the bytes on the disk."""
    command = [sys.executable, "-m", "benchmarks.load_time", "--once", str(path)]
    found = [
        json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        for _ in range(runs)
    ]
    files = [path] if path.is_file() else list(path.iterdir())
    return {
        "size_mb": sum(file.stat().st_size for file in files) / 1e6,
        "seconds": statistics.median(run["seconds"] for run in found),
        "peak_mb": max(run["peak_mb"] for run in found),
    }


def main(
    size: Annotated[str, typer.Option(help=f"One of {', '.join(SIZES)}.")] = "base",
    runs: Annotated[int, typer.Option(min=1, help="Loads of each file.")] = 5,
    only: Annotated[
        list[str] | None, typer.Option(help="Rows to take, such as '.apr q8'.", show_default=False)
    ] = None,
    once: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Print the table."""
    if once is not None:
        print(json.dumps(load_once(once)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_files(folder, size)
        table = Table("weights", title=f"whisper-{size} size, float32 model, {runs} runs")
        for heading in ("file, MB", "load, s (median)", "peak memory, MB (most)"):
            table.add_column(heading, justify="right")
        for kind in track(only or list(KINDS), "loading", console=Console(stderr=True)):
            row = measure(folder / KINDS[kind][0], runs)
            table.add_row(
                kind, f"{row['size_mb']:.1f}", f"{row['seconds']:.2f}", f"{row['peak_mb']:.0f}"
            )
        Console(width=100).print(table)


if __name__ == "__main__":
    typer.run(main)
