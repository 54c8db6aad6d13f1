"""Tokens a second of the live batch and of other decoders, and what each rule costs a step.

make bench-decoding ARGS="--windows 16 --tokens 100 --rounds 5"

On random weights at the size of whisper-tiny that say the same text about everything
(`benchmarks/peers/checkpoint.py`), in float32 on the CPU, with all windows encoded before. Every
decoder has to find that text, and in greedy decoding the same first timestamps, by its own rules:
nobody is forced to go on. The three loads: every window greedy; a quarter of them with five beams;
a third of them decoded once more at a temperature, as fallback does. Decoders take turns in each
round. Medians of all rounds; a ratio is the median of the rounds' own. Both tables are Markdown,
ready for docs/decoding.md.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import Progress

from benchmarks.decoders import Decoder, LiveBatch, open_peer
from benchmarks.decoding_loads import Load, check
from benchmarks.peers.checkpoint import EOT, spoken, write
from benchmarks.random_model import TINY
from benchmarks.step_costs import print_costs

OURS = "Earshot's live batch"
PEERS = ("openai-whisper", "transformers")
Speeds = dict[str, dict[Load, list[float]]]
progress_console = Console(stderr=True)


def main(
    windows: Annotated[int, typer.Option(min=1, help="Decoded at the same time.")] = 16,
    tokens: Annotated[int, typer.Option(min=1, max=160, help="Of each window.")] = 100,
    rounds: Annotated[int, typer.Option(min=1, help="In each everything is measured once.")] = 5,
    numerics: Annotated[str, typer.Option(help="Earshot's, as EARSHOT_NUMERICS.")] = "auto",
    threads: Annotated[int, typer.Option(help="torch's; 0 for its default.")] = 0,
    peers: Annotated[Path, typer.Option(help="The peers' environment.")] = Path(".venv/peers"),
    alone: Annotated[bool, typer.Option("--alone", help="Measure no other decoder.")] = False,
) -> None:
    """Print both tables."""
    if threads:
        torch.set_num_threads(threads)
    python = peers.absolute() / "bin" / "python"
    if not alone and not python.exists():
        raise SystemExit(f"{python} is missing: `make bench-decoding` installs it, or --alone")
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as stack:
        folder = Path(temporary)
        write(folder, TINY, tokens)
        ours = LiveBatch(folder / "hf", windows, numerics)
        torch.save(ours.encoded, folder / "encoded.pt")
        decoders: dict[str, Decoder] = {OURS: ours}
        for name in () if alone else PEERS:
            decoders[name] = stack.enter_context(open_peer(python, folder, name))
        speeds = measured(decoders, windows, spoken(tokens), rounds)
        versions = [decoder.version for decoder in decoders.values()]
        print(
            f"\n{', '.join(versions)}, torch {torch.__version__}, {torch.get_num_threads()} "
            f"threads: tokens a second, {windows} windows of whisper-tiny's size, {tokens} "
            f"tokens of each, medians of {rounds} rounds; in brackets: the live batch is so many "
            "times as fast.\n"
        )
        print_speeds(speeds)
        print_costs(ours.runner, windows, tokens, rounds)


def measured(decoders: dict[str, Decoder], n_windows: int, words: list[int], rounds: int) -> Speeds:
    """Return tokens a second of each round, decoders turn by turn; one round before is not kept.

    Raises:
        AssertionError: if somebody decodes something else.
    """
    speeds: Speeds = {name: {load: [] for load in Load} for name in decoders}
    with Progress(console=progress_console) as progress:
        task = progress.add_task("decoding", total=(rounds + 1) * len(decoders) * len(Load))
        for number in range(rounds + 1):
            for load in Load:
                first: list[list[int]] | None = None
                for name, decoder in decoders.items():
                    progress.update(task, description=f"{name}: {load}")
                    decoded = decoder.decode(load)
                    n_tokens = check(decoded, load, n_windows, words, EOT)
                    first = first or decoded.texts
                    assert load is not Load.GREEDY or decoded.texts == first, f"{name} differs"
                    if number:
                        speeds[name][load].append(n_tokens / decoded.seconds)
                    progress.advance(task)
    return speeds


def print_speeds(speeds: Speeds) -> None:
    """Print tokens a second, and in brackets how many times as fast the live batch is."""
    print("| | " + " | ".join(Load) + " |")
    print("|---|" + "---:|" * len(Load))
    for name, by_load in speeds.items():
        cells = []
        for load, found in by_load.items():
            ratios = [ours / other for ours, other in zip(speeds[OURS][load], found, strict=True)]
            ratio = "" if name == OURS else f" ({statistics.median(ratios):.2f})"
            cells.append(f"{statistics.median(found):.0f}{ratio}")
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    typer.run(main)
