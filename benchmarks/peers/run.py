"""Earshot beside faster-whisper, whisper.cpp, openai-whisper and transformers: `make bench-peers`.

Everybody runs the same random weights (`checkpoint.py`), each behind a server: ours is the real
service, whose engine has a process of its own, and theirs the smallest there can be (`serve.py`),
in one process. All compute with the same number of threads. They take turns, one round after the
other, so that a slow minute is everybody's. Every answer has to have the tokens that the model
says. Who does not start on this machine takes no part.

(a) one window of 30 s, 100 tokens, one client: sent to last token
(b) 16 clients, one window of 30 s each: windows a second
(c) one recording of 10 s (50 tokens) and of 3 s (20 tokens); ours also on a model that allows
    unpadded windows
(d) time to first token: of (a); the peers hand out a window's tokens at its end
(e) peak resident memory after all of this; ours is the sum of the service's and its engine's
(f) from the start of the process until it has transcribed something and listens
"""

from __future__ import annotations

import contextlib
import io
import statistics
import subprocess
import tempfile
import time
import wave
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.peers import contestants
from benchmarks.peers.checkpoint import N_TEXT, openai_state, random_model, spoken, write
from benchmarks.peers.contestants import OURS, Contestant, PeerEnded, Reply
from benchmarks.peers.ggml import write_ggml
from benchmarks.random_model import SIZES
from service.loading import available_cpus
from service.model import WhisperConfig

CLIENTS = 16
LENGTHS = {30: 100, 10: 50, 3: 20}
"""Seconds of a recording, and tokens that its model says."""
ALONE = (
    "faster-whisper float32", "faster-whisper int8", "whisper.cpp f16", "whisper.cpp q8_0",
    "openai-whisper", "transformers float32", "transformers bfloat16",
)  # fmt: skip
CROWDED = (
    ("faster-whisper float32", 1), ("faster-whisper int8", 1),
    ("faster-whisper float32, batches", 2), ("faster-whisper int8, batches", 2),
    ("faster-whisper int8, batches", 1), ("whisper.cpp f16", 2), ("whisper.cpp q8_0", 2),
)  # fmt: skip
"""Engines and how many replicas share the threads."""


console = Console(width=110)


@dataclass(slots=True)
class Results:
    """Of one contestant: case -> one number a round."""

    contestant: Contestant
    numbers: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def median(self, case: str) -> float | None:
        """Return the median of a case that it took part in."""
        return statistics.median(self.numbers[case]) if case in self.numbers else None


def recording(seconds: int) -> bytes:
    """Return a WAV file of noise."""
    noise = np.random.default_rng(0).normal(0, 3000, seconds * 16_000).astype("<i2")
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(16_000)
        writer.writeframes(noise.tobytes())
    return file.getvalue()


def prepare(python: Path, folder: Path, config: WhisperConfig) -> None:
    """Write the model for each length in every peer's format."""
    for seconds, n_tokens in LENGTHS.items():
        own = folder / str(seconds)
        own.mkdir()
        write(own, config, n_tokens)
        weights = openai_state(random_model(config, n_tokens).state_dict(), config)
        write_ggml(own / "ggml-f16.bin", weights, config, "f16", N_TEXT)
        write_ggml(own / "ggml-q8_0.bin", weights, config, "q8_0", N_TEXT)
        converter = python.with_name("ct2-transformers-converter")
        for kind in ("float32", "int8"):
            subprocess.run(
                [converter, "--model", own / "hf", "--output_dir", own / f"ct2-{kind}",
                 "--quantization", kind, "--copy_files", "tokenizer.json"],
                check=True, capture_output=True,
            )  # fmt: skip


def checked(contestant: Contestant, reply: Reply, seconds: int) -> Reply:
    """Return a reply that holds the whole text.

    Raises:
        RuntimeError: if tokens are missing, or are others.
    """
    expected = spoken(LENGTHS[seconds])
    if reply.tokens != expected:
        raise RuntimeError(
            f"{contestant.name} decoded {len(reply.tokens)} tokens of {len(expected)}, "
            f"or others: {reply.tokens[:8]}"
        )
    return reply


def alone(results: list[Results], seconds: int, rounds: int) -> None:
    """Let everybody transcribe one recording, in turns; the first round does not count."""
    wav = recording(seconds)
    for number in range(rounds + 1):
        for result in results:
            reply = contestants.ask(result.contestant, wav)
            checked(result.contestant, reply, seconds)
            if number:
                result.numbers[f"{seconds} s"].append(reply.whole_s)
                result.numbers["first token"].append(reply.first_s)


def crowded(results: list[Results], seconds: int, rounds: int) -> None:
    """Let everybody serve many clients, in turns; the first round does not count."""
    wav = recording(seconds)
    for number in range(rounds + 1):
        for result in results:
            with ThreadPoolExecutor(CLIENTS) as pool:
                began = time.perf_counter()
                asked = [
                    pool.submit(contestants.ask, result.contestant, wav) for _ in range(CLIENTS)
                ]
                for one in asked:
                    checked(result.contestant, one.result(), seconds)
                if number:
                    rate = CLIENTS / (time.perf_counter() - began)
                    result.numbers["windows/s"].append(rate)


def our_kinds(folder: Path, numerics: list[str], *, unpadded: bool) -> list[tuple[str, Path, str]]:
    """Return name, model and numerics of each way that we take part."""
    kinds = [(f"{OURS} {name}", folder / "hf", name) for name in numerics]
    if unpadded:
        kinds += [(f"{OURS} {numerics[0]}, unpadded", folder / "unpadded", numerics[0])]
    return kinds


def compete(
    python: Path, folder: Path, case: Literal["alone", "crowded"], seconds: int,
    numerics: list[str], rounds: int,
) -> list[Results]:  # fmt: skip
    """Start everybody on the model of a length, and let them take turns."""
    own, threads = folder / str(seconds), available_cpus()
    peers = [(name, 1) for name in ALONE] if case == "alone" else list(CROWDED)
    with contextlib.ExitStack() as stack:
        results = [
            Results(stack.enter_context(contestants.ours(name, model, kind, threads)))
            for name, model, kind in our_kinds(own, numerics, unpadded=seconds < max(LENGTHS))
        ]
        for name, replicas in peers:
            each = max(threads // replicas, 1)
            started = contestants.peer(python, own, name, replicas, each)
            try:
                results.append(Results(stack.enter_context(started)))
            except PeerEnded as error:
                console.print(f"takes no part: {error}")
        if case == "alone":
            alone(results, seconds, rounds)
        else:
            crowded(results, seconds, rounds)
        for result in results:
            result.numbers["peak MB"] = [result.contestant.peak_mb]
            result.numbers["start s"] = [result.contestant.start_s]
    return results


def table(title: str, results: list[Results], cases: dict[str, int]) -> Table:
    """Return medians, and how far ahead of the best peer each is in the first case.

    Args:
        title: of the table.
        results: of all.
        cases: name -> digits; the first one ranks.
    """
    ranked = next(iter(cases))
    more_is_better = ranked.endswith("/s")
    found = Table("", title=title)
    for case in cases:
        found.add_column(case, justify="right")
    found.add_column("against the best peer", justify="right")
    peers = [r.median(ranked) for r in results if not r.contestant.is_ours]
    best = (max if more_is_better else min)(value for value in peers if value is not None)
    for result in results:
        own = result.median(ranked)
        assert own is not None
        cells = [_shown(result, case, digits) for case, digits in cases.items()]
        ratio = own / best if more_is_better else best / own
        found.add_row(result.contestant.name, *cells, f"{ratio:.2f}x")
    return found


def _shown(result: Results, case: str, digits: int) -> str:
    value = result.median(case)
    return "" if value is None else f"{value:.{digits}f}"


def main(
    peers: Annotated[Path, typer.Option(help="The peers' environment.")] = Path(".venv/peers"),
    size: Annotated[list[str], typer.Option(help="tiny, base.")] = ["tiny", "base"],  # noqa: B006
    numerics: Annotated[list[str], typer.Option(help="Ours; the first is the default.")] = [  # noqa: B006
        "auto",
        "packed",
        "plain",
    ],
    rounds: Annotated[int, typer.Option(min=1, help="That count, of each case.")] = 5,
) -> None:
    """Print one table a case and size: medians, and ratios to the best peer."""
    python = peers.absolute() / "bin" / "python"
    console.print(f"{available_cpus()} threads; {contestants.versions(python)}")
    for name in size:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            prepare(python, folder, SIZES[name])
            for seconds, n_tokens in LENGTHS.items():
                found = compete(python, folder, "alone", seconds, numerics, rounds)
                title = f"{name}: one client, {seconds} s, {n_tokens} tokens; seconds"
                cases = {f"{seconds} s": 3, "first token": 3, "peak MB": 0, "start s": 1}
                console.print(table(title, found, cases))
            found = compete(python, folder, "crowded", 30, numerics, rounds)
            title = f"{name}: {CLIENTS} clients, 30 s, 100 tokens each"
            console.print(table(title, found, {"windows/s": 2, "peak MB": 0, "start s": 1}))


if __name__ == "__main__":
    typer.run(main)
