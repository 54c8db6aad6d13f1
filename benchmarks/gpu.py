"""The whole plan for a GPU in one run, its table last: speed, floor, peer, and whether it is right.

    make bench-gpu
    python -m benchmarks.gpu --device cpu --sizes micro --seconds 1 --slots 8 --tokens 12

Models have random weights at the sizes of whisper-tiny, large-v3-turbo and large-v3, made on the
device: nothing is read or downloaded. Windows are 30 s of noise, PCM to last token, greedy, all of
them as many tokens long; the engine is the service's own, in this process and without HTTP.

Ends with 1 if something is not right: a row that is not the same alone and in a batch, by a graph
and without, a window that fails, or memory that grows.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from benchmarks.gpu_engine import WINDOW_S, Bench, random_model
from benchmarks.gpu_peer import IS_THERE, peer_windows_a_second
from benchmarks.random_model import LARGE_V3, MICRO, TINY, TURBO
from service.loading import DTYPES, choose_device, choose_dtype, keep_sums_whole
from service.model import WhisperConfig
from service.model.timing import best_seconds

SIZES = {"micro": MICRO, "tiny": TINY, "turbo": TURBO, "large-v3": LARGE_V3}
TARGETS = {"tiny": 5000, "turbo": 1500, "large-v3": 600}
"""Times real time, on one H200."""
SAID = 64
"""Tokens that each row of a step has already said."""
MOST_GROWTH_MB = 8.0
_READ_BYTES = {"cuda": 1 << 32, "cpu": 1 << 28}
console = Console(width=118)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run, and until when.

    Attributes:
        device, dtype: of the models.
        slots: windows at the same time; the peer's batch.
        n_tokens: of each window.
        seconds: of each load.
        ends_at: `time.perf_counter()` after which nothing new is begun.
    """

    device: torch.device
    dtype: torch.dtype
    slots: int
    n_tokens: int
    seconds: float
    ends_at: float


@dataclass(slots=True)
class Outcome:
    """What came of one size."""

    cells: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


def floor_s(config: WhisperConfig, dtype: torch.dtype, n_rows: int, read: float) -> float:
    """Return the least time of a decode step: its bytes, at the speed of the device's memory.

    Weights once; for each row the keys and values of its window, those of what it has said, and its
    logits, written and read in float32.

    Args:
        config: of the model.
        dtype: of weights, keys and values.
        n_rows: of the step.
        read: bytes a second.
    """
    d, layers = config.d_model, config.n_text_layer
    weights = layers * (6 * d * d + 2 * d * config.n_text_ffn) + config.n_vocab * d
    of_row = layers * 2 * d * (config.n_audio_ctx + SAID)
    n_bytes = (weights + n_rows * of_row) * dtype.itemsize + n_rows * 6 * config.n_vocab
    return n_bytes / read


def read_speed(device: torch.device) -> float:
    """Return bytes a second, read from memory that is in no cache."""
    floats = torch.ones(_READ_BYTES[device.type] // 4, device=device)

    def read() -> None:
        floats.sum().item()

    return floats.nbytes / best_seconds(read)[0]


def differing(first: Mapping[int, object], second: Mapping[int, object]) -> str:
    """Return which windows are not the same in both, in words; empty if none."""
    numbers = [number for number, said in first.items() if second[number] != said]
    return "" if not numbers else f"{len(numbers)} of {len(first)} windows differ"


def check(bench: Bench, plan: Plan, outcome: Outcome) -> None:
    """Compare graphs with eager steps and company with solitude, bit for bit."""
    chosen = list(range(1, 5))
    beside = bench.decoded(chosen, plan.slots)
    alone = bench.decoded(chosen, 1)
    eager = Bench(bench.model, len(chosen), plan.n_tokens, fixed_shapes=False)
    by_eager = eager.decoded(chosen, len(chosen))
    if len({token for said in alone.values() for token, _ in said}) < len(chosen):
        outcome.faults.append("the model always says the same, which proves nothing")
    for what, found in (
        ("batch == alone", differing(beside, alone)),
        (f"{_recorded(plan)} == eager", differing(beside, by_eager)),
    ):
        outcome.cells[what] = found or "yes"
        if found:
            outcome.faults.append(f"{what}: {found}")


def _recorded(plan: Plan) -> str:
    """Return what steps of fixed shapes are on this device."""
    return "graph" if plan.device.type == "cuda" else "fixed shapes"


def soak(bench: Bench, plan: Plan, outcome: Outcome) -> None:
    """Load the engine in all ways, and see what is left."""
    seen = bench.soak(plan.seconds)
    grown = seen.after_mb - seen.before_mb
    outcome.cells["soak"] = f"{seen.ended} ended, {seen.left} left, {grown:+.0f} MB"
    if seen.failed or seen.slots_held:
        outcome.faults.append(f"soak: {seen.failed} failed, {seen.slots_held} slots still held")
    if plan.device.type == "cuda" and grown > MOST_GROWTH_MB:
        outcome.faults.append(f"soak: memory grew by {grown:.0f} MB")


def measure(name: str, plan: Plan, read: float, outcome: Outcome) -> None:
    """Do everything that is done with one size."""
    config = SIZES[name]
    model = random_model(config, plan.device, plan.dtype)
    bench = Bench(model, plan.slots, plan.n_tokens)
    with bench.runner.on_thread():
        bench.warm_up()
        step = bench.runner.fixed_step
        if plan.device.type == "cuda" and not (step and step.is_recorded):
            outcome.faults.append("steps are no graphs")
        outcome.cells["start"] = f"{bench.start_s:.1f} s"
        rate = bench.windows_a_second(plan.seconds)
        outcome.cells["windows/s"] = f"{rate:.1f}"
        outcome.cells["times real time"] = f"{rate * WINDOW_S:.0f}"
        floor = floor_s(config, plan.dtype, plan.slots, read)
        on_device, with_host = bench.step_s(plan.slots)
        outcome.cells["step, device alone"] = f"{1e6 * on_device:.0f} us"
        outcome.cells["step, with the host"] = f"{1e6 * with_host:.0f} us"
        outcome.cells["turn, host alone"] = f"{1e6 * bench.host_s():.0f} us"
        outcome.cells["step / floor"] = f"{on_device / floor:.2f} (floor {1e6 * floor:.0f} us)"
        check(bench, plan, outcome)
        soak(bench, plan, outcome)


def measure_peer(name: str, plan: Plan, outcome: Outcome) -> None:
    """Let transformers do the same windows; what it raises is what came of it."""
    cell = "transformers"
    if not IS_THERE:
        outcome.cells[cell] = "not installed"
        return
    try:
        rate = peer_windows_a_second(
            SIZES[name], plan.device, plan.dtype, plan.slots, plan.n_tokens
        )
    except Exception as error:  # noqa: BLE001 - another project's failure is no fault of ours
        outcome.cells[cell] = f"{type(error).__name__}: {str(error).splitlines()[0]:.60}"
        return
    outcome.cells[cell] = f"{rate * WINDOW_S:.0f} times real time"


def in_time(plan: Plan, what: str, outcome: Outcome, call: Callable[[], None]) -> None:
    """Do something, unless there is no time left, and give the device's memory back."""
    if time.perf_counter() > plan.ends_at:
        outcome.cells[what] = "no time left"
        return
    with console.status(what):
        call()
    gc.collect()
    if plan.device.type == "cuda":
        torch.cuda.empty_cache()


def table_of(outcomes: dict[str, Outcome], title: str) -> Table:
    """Return a table with a column a size."""
    table = Table("", *outcomes, title=title)
    rows = dict.fromkeys(cell for outcome in outcomes.values() for cell in outcome.cells)
    for row in rows:
        table.add_row(row, *(outcome.cells.get(row, "") for outcome in outcomes.values()))
    targets = [str(TARGETS.get(name, "")) for name in outcomes]
    table.add_row("target on an H200, times real time", *targets)
    return table


def chosen_sizes(names: str) -> Iterable[str]:
    """Return the sizes in a list with commas.

    Raises:
        typer.BadParameter: for a name that is none.
    """
    for name in names.split(","):
        if name not in SIZES:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(SIZES)}")
        yield name


def main(
    device: Annotated[str, typer.Option(help="`auto`, `cpu`, `cuda`, `cuda:1`.")] = "auto",
    dtype: Annotated[str, typer.Option(help="`auto`, or one of torch's.")] = "auto",
    sizes: Annotated[str, typer.Option(help="With commas between them.")] = "tiny,turbo,large-v3",
    slots: Annotated[int, typer.Option(min=1, help="Windows at the same time.")] = 64,
    tokens: Annotated[int, typer.Option(min=2, max=370, help="Of each window.")] = 110,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of each load.")] = 15.0,
    minutes: Annotated[float, typer.Option(min=0.1, help="After which nothing is begun.")] = 7.0,
) -> None:
    """Run the plan for a GPU and print its table."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)  # what the probes at start say
    names, on = list(chosen_sizes(sizes)), choose_device(device)
    if on.type == "cuda":
        keep_sums_whole()
    chosen_dtype = DTYPES[dtype] if dtype in DTYPES else choose_dtype("auto", on)
    ends_at = time.perf_counter() + 60 * minutes
    plan = Plan(on, chosen_dtype, slots, tokens, seconds, ends_at)
    read = read_speed(on)
    outcomes = {name: Outcome() for name in names}
    for name in names:
        in_time(plan, name, outcomes[name], partial(measure, name, plan, read, outcomes[name]))
    for name in names:
        in_time(
            plan, f"transformers, {name}", outcomes[name],
            partial(measure_peer, name, plan, outcomes[name]),
        )  # fmt: skip
    where = torch.cuda.get_device_name(on) if on.type == "cuda" else "CPU"
    title = (
        f"{where}, torch {torch.__version__}, {str(chosen_dtype).removeprefix('torch.')}, {slots} "
        f"windows at once, {tokens} tokens each, memory read at {read / 1e9:.0f} GB/s"
    )
    faults = [f"{name}: {fault}" for name in names for fault in outcomes[name].faults]
    for fault in faults:
        console.print(fault)
    console.print(table_of(outcomes, title))
    if faults:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
