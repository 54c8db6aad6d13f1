"""Where each millisecond of a window and of a decode step goes; writes benchmarks/profile.md.

python -m benchmarks.profiling

Whole turns of the engine's core, over the real scheduler, runner, rules and sampler, on random
weights. Parts are timed by wrapping their calls, which costs a few microseconds each; what remains
of a turn outside all of them is the first line's own time.
"""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import typer

from benchmarks.random_model import SIZES, SPECIALS
from benchmarks.stopwatch import Stopwatch
from service.decoding.params import SequenceParams, SpecialTokens
from service.engine.core import EngineCore
from service.engine.runner import ModelRunner, RunnerConfig
from service.engine.scheduler import Scheduler, SchedulerConfig
from service.engine.types import WindowInput
from service.loading import available_cpus
from service.model import WhisperConfig, WhisperModel, whisper
from service.model.compiled_encoder import CompiledEncoderBlock
from service.model.numerics import choose_numerics
from service.model.packed import pack

PAGE = Path(__file__).with_name("profile.md")
BATCHES = (1, 8, 16)
CPU = torch.device("cpu")
HEAD = """# Where the time goes

Written by `python -m benchmarks.profiling`. Own time of each part in milliseconds: a decode step is
one turn of the engine's core (schedule, model, rules, draw, update) with so many rows; a window is
mel, encoder, cross keys and values, prompt and first token. Timing the parts adds a few
microseconds to each call.
"""


@dataclass(frozen=True, slots=True)
class Profile:
    """Milliseconds of each part of one unit of work, and of the whole."""

    parts: dict[str, float]
    whole: float


def watch_all(stopwatch: Stopwatch, core: EngineCore, runner: ModelRunner) -> None:
    """Put the stopwatch at every part of a turn."""
    model, cache, watch = runner.model, runner.cache, stopwatch.watch
    watch("scheduler", core.scheduler, "schedule")
    watch("scheduler", core.scheduler, "update")
    watch("runner: orders, the copy from the device", runner, "decode")
    watch("runner: orders, the copy from the device", runner, "prefill")
    watch("cache views and masks", cache, "view")
    watch("rules and draw", runner.sampler, "draw_next")
    watch("rules and draw", runner.sampler, "draw_first")
    watch("rules and draw", runner.sampler, "commit")
    watch("mel", runner._encoder._mel, "windows")
    watch("store cross keys and values", cache, "write_cross")
    watch("encoder: the rest (residuals, positions)", model, "encode")
    watch("decoder: the rest (residuals, key writes, shapes)", model.decoder, "decode")
    watch("LM head", model.decoder, "logits")
    if model.decoder.compiled is not None:
        watch("decoder: blocks, compiled", model.decoder.compiled, "_run")
    watch("projection of cross keys and values", model.decoder, "cross_kv")
    for convolution in (model.encoder.conv1, model.encoder.conv2):
        watch("encoder: convolutions", convolution, "forward")
    for half, blocks in (("encoder", model.encoder.blocks), ("decoder", model.decoder.blocks)):
        for block in blocks:
            for name, module in block.named_modules():
                kind = type(module).__name__
                if name and not list(module.children()):
                    part = {"LayerNorm": "normalisation", "GELU": "GELU"}.get(kind, "linears")
                    watch(f"{half}: {part}", module, "forward")
    for block in model.encoder.blocks:
        if isinstance(block, CompiledEncoderBlock):
            watch("encoder: attention", block, "attend")
            watch("encoder: all but attention, compiled", block, "project")
            watch("encoder: all but attention, compiled", block, "mix")
        else:
            watch("encoder: attention", block.attn, "attend")


def watch_attention(stopwatch: Stopwatch) -> None:
    """Time the attention over cached keys, self and cross apart, for the life of the process."""
    watch = stopwatch.watch
    watch("decoder: self-attention", whisper.DecoderBlock, "_attend_self")
    watch("decoder: cross-attention", whisper.DecoderBlock, "_attend_cross")


def build(config: WhisperConfig, numerics: str, windows: int) -> tuple[EngineCore, ModelRunner]:
    """Return a core over a random model."""
    torch.manual_seed(0)
    model = WhisperModel(config).requires_grad_(False).eval()
    pack(model, choose_numerics(numerics, CPU, torch.float32))
    text = config.n_vocab - len(SPECIALS) - 1501
    special = SpecialTokens(
        eot=text, sot=text + 1, no_speech=text + 7, no_timestamps=text + 8,
        timestamp_begin=text + 9, blank=(32,), n_vocab=config.n_vocab, languages=(text + 2,),
    )  # fmt: skip
    runner = ModelRunner(model, special, RunnerConfig(windows, windows, encode_batch=1))
    scheduler = SchedulerConfig(windows, windows, special.eot, config.n_text_ctx)
    return EngineCore(Scheduler(scheduler), runner), runner


def submit(core: EngineCore, runner: ModelRunner, batch: int, max_tokens: int) -> None:
    """Hand in windows of noise that say exactly so many tokens each."""
    special, rng = runner.special, np.random.default_rng(0)
    prompt = (special.sot, special.languages[0], special.sot + 3, special.no_timestamps or 0)
    params = SequenceParams(prompt, 0, max_tokens, suppress_tokens=(special.eot,))
    for number in range(batch):
        samples = rng.normal(0, 0.1, 480_400).astype(np.float32)
        core.scheduler.open(number, WindowInput(samples, 3000, 2.0))
        core.scheduler.submit(1000 + number, number, params)


def measure(
    stopwatch: Stopwatch, config: WhisperConfig, numerics: str, batch: int, n_tokens: int
) -> tuple[Profile, Profile]:
    """Return where the time of a window goes, and of a decode step at this batch."""
    core, runner = build(config, numerics, batch)
    runner.warm_up()  # which settles on how many rows the decoder is padded to
    watch_all(stopwatch, core, runner)
    stopwatch.watch("the turn itself", core, "turn")
    submit(core, runner, batch, n_tokens)
    stopwatch.reset()
    began = time.perf_counter()
    core.turn()  # encodes one window and draws its first token
    window = _per(stopwatch, 1, time.perf_counter() - began)
    while len(core.scheduler.running) < batch:
        core.turn()
    stopwatch.reset()
    began, n_steps = time.perf_counter(), 0
    while len(core.scheduler.running) == batch:
        core.turn()
        n_steps += 1
    return window, _per(stopwatch, n_steps, time.perf_counter() - began)


def _per(stopwatch: Stopwatch, count: int, seconds: float) -> Profile:
    parts = {name: 1000 * own / count for name, own in stopwatch.seconds.items()}
    return Profile(parts, 1000 * seconds / count)


def table(columns: dict[str, Profile]) -> str:
    """Return profiles side by side in Markdown, the largest part first."""
    names = {name for profile in columns.values() for name in profile.parts}
    last = list(columns.values())[-1]
    order = sorted(names, key=lambda name: -last.parts.get(name, 0.0))
    lines = [
        f"| | {' | '.join(f'{column}, ms' for column in columns)} |",
        f"|---|{'---:|' * len(columns)}",
    ]
    for name in order:
        cells = [_cell(profile.parts.get(name), profile.whole) for profile in columns.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    wholes = " | ".join(f"**{profile.whole:.2f}**" for profile in columns.values())
    return "\n".join([*lines, f"| **all** | {wholes} |", ""])


def _cell(part: float | None, whole: float) -> str:
    return "" if part is None else f"{part:.2f} ({part / whole:.0%})"


def main(
    size: Annotated[Literal["tiny", "base"], typer.Option(help="Of the random model.")] = "tiny",
    numerics: Annotated[list[str], typer.Option(help="One or more.")] = ["plain", "auto"],  # noqa: B006
    threads: Annotated[int, typer.Option(min=1, help="Of torch.")] = available_cpus(),
    tokens: Annotated[int, typer.Option(min=3, help="That each window says.")] = 100,
    to: Annotated[Path, typer.Option(help="The page.")] = PAGE,
) -> None:
    """Write a page with the profile of a window, and of a decode step at batch 1, 8 and 16."""
    torch.set_num_threads(threads)
    stopwatch = Stopwatch()
    watch_attention(stopwatch)
    sections = [
        HEAD,
        f"whisper-{size}'s shape, random weights, torch {torch.__version__}, {threads} threads, "
        f"{platform.machine()}, {tokens} tokens a window.\n",
    ]
    for name in (choose_numerics(name, CPU, torch.float32).name for name in numerics):
        windows: dict[str, Profile] = {}
        steps: dict[str, Profile] = {}
        with torch.inference_mode():
            for batch in BATCHES:
                found = measure(stopwatch, SIZES[size], name, batch, tokens)
                windows["a window"] = windows.get("a window", found[0])
                steps[f"batch {batch}"] = found[1]
        sections += [f"## {name}: a window\n", table(windows)]
        sections += [f"## {name}: a decode step\n", table(steps)]
    to.write_text("\n".join(sections), encoding="utf-8")
    typer.echo(f"wrote {to}")


if __name__ == "__main__":
    typer.run(main)
