"""What each part of a decoder step costs: the forward, every rule, the draw, beams' keys.

Knows nothing about other decoders.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.decoding_loads import BEAMS, RETRY
from service.decoding.params import SequenceParams
from service.decoding.rules import RuleState
from service.decoding.sampling import Sampler
from service.engine.runner import ModelRunner
from service.model.compiled import library

Part = tuple[str, Callable[[], object]]


def print_costs(runner: ModelRunner, n_rows: int, n_tokens: int, rounds: int) -> None:
    """Print the median of what each part of a step takes, and its share of the forward.

    Args:
        runner: warm; nothing may run on it.
        n_rows: windows that decode greedily.
        n_tokens: of each so far, at most.
        rounds: each part is done ten times as often.
    """
    with torch.inference_mode():
        parts = [*forwards(runner, n_rows, n_tokens), *rules(runner, n_rows)]
        parts += beams(runner, n_rows, n_tokens)
        took: dict[str, list[float]] = {name: [] for name, _ in parts}
        for number in range(10 * rounds + 1):
            for name, work in parts:
                began = time.perf_counter()
                work()
                if number:
                    took[name].append(1e3 * (time.perf_counter() - began))
    n_vocab, forward = runner.special.n_vocab, statistics.median(took[parts[0][0]])
    print(f"\nMilliseconds a step of {n_rows} rows, {n_vocab} logits each.\n")
    print("| part of a step | ms | of the forward |\n|---|---:|---:|")
    for name, found in took.items():
        ms = statistics.median(found)
        print(f"| {name} | {ms:.2f} | {100 * ms / forward:.1f} % |")


def forwards(runner: ModelRunner, n_rows: int, n_tokens: int) -> Iterator[Part]:
    """Yield the model's forward: one more token of every row."""
    tokens = torch.ones(n_rows, dtype=torch.int64)
    yield (
        "the model's forward",
        partial(runner.model.decode, tokens, [n_tokens - 1] * n_rows, runner.cache),
    )


def rules(runner: ModelRunner, n_rows: int) -> Iterator[Part]:
    """Yield the rules, one by one where they are that, and the draw."""
    special = runner.special
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(n_rows, special.n_vocab, generator=generator)
    plain = SequenceParams((special.sot,), 0, 100, suppress_tokens=(1, 2, 3))
    sampled = SequenceParams((special.sot,), 0, 100, temperature=RETRY)
    sampler, noisy = _sampler(runner, plain, n_rows), _sampler(runner, sampled, n_rows)
    one_noisy = _sampler(runner, plain, n_rows)
    one_noisy.start(0, sampled)
    state, rows = sampler.rules, slice(0, n_rows)
    state.update(torch.full((n_rows,), special.timestamp_begin), 0)
    state.update(torch.ones(n_rows, dtype=torch.int64), 0)
    if library() is None:  # compiled, they are one
        yield from _one_by_one(state, logits, rows)
    yield "all rules of a step", partial(state.filter_next, logits, 0)
    yield "log-softmax and the likeliest token", partial(sampler._draw, logits, 0)
    yield "the same with sampling noise on one row", partial(one_noisy._draw, logits, 0)
    yield "the same with sampling noise on all rows", partial(noisy._draw, logits, 0)
    yield (
        "noting what was drawn",
        partial(state.update, torch.ones(n_rows, dtype=torch.int64), 0),
    )


def _one_by_one(state: RuleState, logits: Tensor, rows: slice) -> Iterator[Part]:
    yield "rule: suppressed tokens", partial(state.suppress, logits, rows)
    yield (
        "rule: timestamps in pairs and in order",
        partial(state.keep_order, logits.clone(), rows, looks=state.looks),
    )
    yield (
        "rule: all timestamps together against the likeliest text",
        partial(state.weigh, logits.clone(), rows, looks=state.looks),
    )


def beams(runner: ModelRunner, n_rows: int, n_tokens: int) -> Iterator[Part]:
    """Yield what the beams of as many rows cost; nothing if that is no whole window."""
    n_windows = n_rows // BEAMS
    if not n_windows:
        return
    special = runner.special
    how = SequenceParams((special.sot,), 0, 100, beam_size=BEAMS)
    n_beams = n_windows * BEAMS
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(n_beams, special.n_vocab, generator=generator)
    sampler = _sampler(runner, how, n_beams)
    ranked = partial(sampler._select, logits, 0, BEAMS)
    yield f"{n_windows} windows of {BEAMS} beams: log-softmax and ranking", ranked
    sources = [row ^ 1 if row ^ 1 < n_beams else row for row in range(n_beams)]
    moved = partial(runner.cache.move_rows, sources, list(range(n_beams)), n_tokens)
    yield f"the same: the keys of all beams copied, {n_tokens} positions", moved


def _sampler(runner: ModelRunner, params: SequenceParams, n_rows: int) -> Sampler:
    sampler = Sampler(runner.special, n_rows)
    for row in range(0, n_rows, params.n_rows):
        sampler.start(row, params)
    return sampler
