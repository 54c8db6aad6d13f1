"""How far encoder and decode step are from what the machine allows: measured / floor.

python -m benchmarks.roofline --size tiny

Memory bandwidth and the rate of matrix products are measured in the same run, with the same
threads. A floor is the time for the bytes that have to be read, or for the products that have to be
made, whichever is longer:

- encoder, with the projection of cross keys and values: its products, each in its own dtype;
- decode step: all weights once, a window's keys and values and the text's own for each row, and the
  logits written.

What fits into the last cache is read faster than memory, so a ratio under 1 is possible at batch 1.
Numerics take turns, so that a busy machine is unfair to all of them alike.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal, cast

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.machine import Machine, measure
from benchmarks.numerics import available
from benchmarks.random_model import SIZES
from service.loading import available_cpus
from service.model import KVCache, WhisperConfig, WhisperModel
from service.model.attention import SelfAttention
from service.model.compiled_encoder import CompiledEncoderBlock
from service.model.numerics import NUMERICS, Numerics
from service.model.packed import pack

BATCHES = (1, 8, 16)
POSITION = 64
"""Tokens that each row has already said."""
F32 = torch.float32


def encoder_floor_s(
    config: WhisperConfig, numerics: Numerics, machine: Machine, attention_dtype: torch.dtype
) -> float:
    """Return the least time for one window of full length, attended to in `attention_dtype`."""
    d, t = config.d_model, config.n_audio_ctx
    ffn, layers = config.n_audio_ffn, config.n_audio_layer
    convolutions = 2 * 3 * d * (2 * t * config.n_mels + t * d)
    linears = layers * 2 * t * (4 * d * d + 2 * d * ffn)
    attention = layers * 4 * t * t * d
    cross_kv = config.n_text_layer * 4 * t * d * d
    if attention_dtype == torch.int8:
        attention += attention // 2  # weights have two bytes, and values are multiplied by each
    inner = (linears + cross_kv) / machine.flops[numerics.encoder]
    return (convolutions / machine.flops[F32]) + inner + attention / machine.flops[attention_dtype]


@dataclass(frozen=True, slots=True)
class Reads:
    """What a decode step reads, and multiplies in.

    Attributes:
        weights: dtype of the decoder's linears.
        head: that of the LM head.
        own, cross: that of keys and values, the decoder's own and a window's.
        multiplies: what the decoder multiplies in.
    """

    weights: torch.dtype = F32
    head: torch.dtype = F32
    own: torch.dtype = F32
    cross: torch.dtype = F32
    multiplies: torch.dtype = F32

    @classmethod
    def of(cls, model: WhisperModel) -> Reads:
        """Return what the steps of a model do."""
        numerics, is_compiled = model.numerics, model.decoder.compiled is not None
        weights = numerics.decoder
        if weights == torch.int8 and not is_compiled:
            weights = torch.bfloat16
        multiplies = F32 if is_compiled else weights
        return cls(weights, numerics.head, model.self_dtype, model.cross_dtype, multiplies)


def step_floor_s(config: WhisperConfig, reads: Reads, machine: Machine, batch: int) -> float:
    """Return the least time for one token on each of `batch` rows."""
    d, ffn, layers = config.d_model, config.n_text_ffn, config.n_text_layer
    linears = layers * (6 * d * d + 2 * d * ffn)
    head = config.n_vocab * d
    cross = layers * 2 * config.n_audio_ctx * d
    own = layers * 2 * POSITION * d
    row_bytes = cross * reads.cross.itemsize + own * reads.own.itemsize
    row_bytes += config.n_vocab * F32.itemsize
    read = linears * reads.weights.itemsize + head * reads.head.itemsize + batch * row_bytes
    products = 2 * batch * (linears + cross + own) / machine.flops[reads.multiplies]
    products += 2 * batch * head / machine.flops[reads.head]
    return max(read / machine.read, products)


def attention_dtype(model: WhisperModel) -> torch.dtype:
    """Return what the encoder of a model attends in."""
    if model.numerics.encoder != torch.int8:
        return model.numerics.encoder
    block = model.encoder.blocks[0]
    if isinstance(block, CompiledEncoderBlock):
        return torch.int8
    attends = cast("SelfAttention", block.attn).attend
    return F32 if attends is scaled_dot_product_attention else torch.int8


def in_turns(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each call in each round; all take turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - began)
    return times


def encode_window(model: WhisperModel, mel: Tensor) -> Tensor:
    """Encode one window, with the keys and values that decoder steps will read."""
    return model.decoder.cross_kv(model.encode(mel))


def prepared(config: WhisperConfig) -> dict[str, tuple[WhisperModel, KVCache]]:
    """Return a model with random weights, and a cache full of windows, for each numerics."""
    models = {}
    for name in available():
        torch.manual_seed(0)
        model = WhisperModel(config).requires_grad_(False).eval()
        pack(model, NUMERICS[name])
        n_rows = max(BATCHES)
        cache = model.new_cache(n_rows, n_rows)
        for slot in range(n_rows):
            cache.write_cross(slot, torch.randn(cache.cross[:, :, 0].shape))
        models[name] = (model, cache)
    return models


def main(
    size: Annotated[Literal["tiny", "base"], typer.Option(help="Of the random model.")] = "tiny",
    threads: Annotated[int, typer.Option(min=1, help="Of torch.")] = available_cpus(),
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each.")] = 15,
) -> None:
    """Print measured / floor of the encoder and of a decode step at batch 1, 8 and 16."""
    torch.set_num_threads(threads)
    config, console = SIZES[size], Console(width=110)
    with torch.inference_mode(), console.status("measuring"):
        models = prepared(config)
        dtypes = {F32}
        for model, _ in models.values():
            own = model.numerics
            dtypes |= {own.encoder, own.head, Reads.of(model).multiplies}
        machine = measure(tuple(dtypes))
        mel = torch.randn(1, config.n_mels, config.max_frames)
        title = f"whisper-{size}, random weights, {threads} threads: ms, best (median)"
        table = Table("numerics", "what", title=title)
        for heading in ("floor", "measured", "measured / floor"):
            table.add_column(heading, justify="right")

        def add(what: str, floors: dict[str, float], times: dict[str, list[float]]) -> None:
            for name, seconds in times.items():
                best, middle, floor = min(seconds), statistics.median(seconds), floors[name]
                cells = [f"{1000 * floor:.2f}", f"{1000 * best:.2f} ({1000 * middle:.2f})"]
                table.add_row(name, what, *cells, f"{best / floor:.2f} ({middle / floor:.2f})")
            table.add_section()

        encode = {name: partial(encode_window, model, mel) for name, (model, _) in models.items()}
        floors = {
            name: encoder_floor_s(config, model.numerics, machine, attention_dtype(model))
            for name, (model, _) in models.items()
        }
        add("encoder", floors, in_turns(encode, rounds))
        for batch in BATCHES:
            tokens, positions = torch.arange(batch), [POSITION] * batch
            steps = {
                name: partial(model.decode, tokens, positions, cache)
                for name, (model, cache) in models.items()
            }
            floors = {
                name: step_floor_s(config, Reads.of(model), machine, batch)
                for name, (model, _) in models.items()
            }
            add(f"step, batch {batch}", floors, in_turns(steps, 2 * rounds))
    rates = ", ".join(
        f"{str(dtype).removeprefix('torch.')} {rate / 1e9:.0f} Gop/s"
        for dtype, rate in sorted(machine.flops.items(), key=lambda item: str(item[0]))
    )
    console.print(f"memory is read at {machine.read / 1e9:.1f} GB/s; products: {rates}")
    console.print(table)


if __name__ == "__main__":
    typer.run(main)
