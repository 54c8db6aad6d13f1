"""Resident memory after requests of every shape there is, for each of `EARSHOT_NUMERICS`.

python -m benchmarks.shapes
python -m benchmarks.shapes --random tiny

What is made for a shape and kept is memory that grows with the requests served: a kernel of oneDNN
for each number of rows, at most a thousand. Each numerics gets a process of its own, which encodes
windows of every length, one and two together, decodes prompts of every length, aligns texts of many
with windows of many, and takes steps with every number of rows. Then it does all of it again, which
has to cost nothing. The last column is not a service's: every number of rows from 1 to 600 through
the linears of one layer.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import psutil
import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.numerics import available
from benchmarks.random_model import SIZES, write_random_model
from service.checkpoints import build_model, load_checkpoint
from service.decoding.params import AlignParams, SequenceParams, SpecialTokens
from service.engine.encoder import silence
from service.engine.runner import ModelRunner, RunnerConfig
from service.engine.types import AlignStart, Group, Move, MoveKind, Start
from service.memory import give_back, keep_one_arena
from service.model.compiled_encoder import CompiledEncoderBlock
from service.model.numerics import NUMERICS
from service.model.packed import pack

WINDOWS, ROWS = 16, 24
"""What a service has by default."""
LONGEST_TEXT = 224
"""Tokens that Whisper decodes of a window, and that it takes of the text before it."""
NUMBERS = 600
LINEARS = {
    "blocks.0.attn.qkv": "d_model",
    "blocks.0.attn.out": "d_model",
    "blocks.0.mlp.0": "d_model",
    "blocks.0.mlp.2": "n_audio_ffn",
}
"""The shapes of an encoder layer's linears, and how wide their input is."""
Row = dict[str, float]


def main(
    model: Annotated[str, typer.Option(help="A folder, a file or a hub id.")] = "service/builtin",
    random: Annotated[
        Literal["tiny", "base"] | None,
        typer.Option(help="Random weights instead, for windows of any length."),
    ] = None,
    numerics: Annotated[list[str] | None, typer.Option(help="One or more; all of them.")] = None,
    threads: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """Print a table: MB after each kind of work, and what doing it again adds."""
    rows: dict[str, Row] = {}
    with tempfile.TemporaryDirectory() as folder:
        if random is not None:
            config = dataclasses.replace(SIZES[random], window_rounding_frames=64)
            write_random_model(Path(folder), config)
            model = folder
        for name in numerics or available():
            with multiprocessing.get_context("spawn").Pool(1) as alone:
                rows[name] = alone.apply(watch, (model, name, threads))
    table = Table("MB", title=random or model)
    for heading in next(iter(rows.values())):
        table.add_column(heading, justify="right")
    for name, row in rows.items():
        table.add_row(name, *(f"{value:.0f}" for value in row.values()))
    Console(width=120).print(table)


def watch(source: str, numerics: str, threads: int) -> Row:
    """Return resident memory in MB after each kind of work. For a process of its own."""
    keep_one_arena()
    torch.set_num_threads(threads)
    checkpoint = load_checkpoint(source)
    model = build_model(checkpoint)
    pack(model, NUMERICS[numerics])
    special = SpecialTokens.of(checkpoint.tokenizer, checkpoint.config.n_vocab)
    runner = ModelRunner(model, special, RunnerConfig(WINDOWS, ROWS, encode_batch=2))
    runner.warm_up()
    found = {"at start": resident_mb()}
    for name, work in WORK.items():
        work(runner)
        found[name] = resident_mb()
    for work in WORK.values():
        work(runner)
    found["all again"] = resident_mb()
    with torch.inference_mode():
        for n_rows in range(1, NUMBERS + 1):
            if isinstance(block := model.encoder.blocks[0], CompiledEncoderBlock):
                block(torch.zeros(1, n_rows, model.config.d_model))
                continue
            for name, width in LINEARS.items():
                n_in = getattr(model.config, width)
                model.encoder.get_submodule(name)(torch.zeros(n_rows, n_in))
    found[f"{NUMBERS} numbers"] = resident_mb()
    return found


def resident_mb() -> float:
    """Return the resident memory of this process, without what the allocator keeps for later."""
    give_back()
    return float(psutil.Process().memory_info().rss) / 1e6


def encode_windows(runner: ModelRunner) -> None:
    """Encode windows of every length, one and two together."""
    for n_frames in lengths(runner):
        for n_windows in (1, 2):
            runner.encode([(slot, silence(n_frames)) for slot in range(n_windows)])


def lengths(runner: ModelRunner) -> list[int]:
    """Return the mel frames that windows may have."""
    config = runner.model.config
    return sorted({config.window_frames(n) for n in range(1, config.max_frames + 1)})


def decode_prompts(runner: ModelRunner) -> None:
    """Decode prompts of every length."""
    for length in range(1, LONGEST_TEXT + 1):
        prompt = (runner.special.sot,) * length
        runner.prefill([Start(0, 0, SequenceParams(prompt, length - 1, 1))])


def align_texts(runner: ModelRunner) -> None:
    """Align texts of many lengths with windows of many lengths, the longest last."""
    for n_frames in reversed(lengths(runner)[::-4]):
        runner.encode([(0, silence(n_frames))])
        for length in range(1, LONGEST_TEXT + 1, 8):
            params = AlignParams((runner.special.sot,), (1,) * length, n_frames)
            runner.align([AlignStart(0, 0, params)])


def take_steps(runner: ModelRunner) -> None:
    """Take a step with every number of rows, one or two a window, over windows of many lengths."""
    params = SequenceParams((runner.special.sot,), 0, 2)
    for n_frames in lengths(runner)[::4]:
        runner.encode([(0, silence(n_frames))])
        runner.move([Move(MoveKind.WINDOW, 0, slot) for slot in range(1, WINDOWS)])
        runner.prefill([Start(row, row // 2, params) for row in range(ROWS)])
        for n_windows in range(1, WINDOWS + 1):
            runner.decode([Group(0, 0, n_windows)])
            runner.decode([Group(0, 0, min(n_windows, ROWS // 2), 2)])


WORK: dict[str, Callable[[ModelRunner], None]] = {
    "windows": encode_windows,
    "prompts": decode_prompts,
    "texts": align_texts,
    "steps": take_steps,
}

if __name__ == "__main__":
    typer.run(main)
