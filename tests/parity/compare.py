"""Our side of the parity tests: greedy decoding through the KV cache, and what counts as equal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.model import KVCache, RowGroup, WhisperModel
from tests.parity.recipes import MIN_DISTINCT_TOKENS, TIE_MARGIN, Shape, waveform
from tests.parity.tally import Tally

ENCODER_TOLERANCE = 1e-4
LOGITS_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Reference:
    """What a reference decoded for one row: tokens, and the margin of each over the runner-up."""

    tokens: Sequence[int]
    margins: Sequence[float]


def waveforms(shape: Shape) -> Tensor:
    """Return the audio of all rows, f32[rows n_samples]."""
    rows = [waveform(shape.seed, row, shape.n_samples) for row in range(shape.rows)]
    return torch.from_numpy(np.stack(rows))


def greedy(
    model: WhisperModel, encoder_output: Tensor, prompts: Sequence[list[int]], n_steps: int
) -> list[list[int]]:
    """Return the raw argmax tokens of all rows, decoded together: [b t d_model] -> [b][n_steps]."""
    n_rows = len(prompts)
    cache = KVCache(model.config, windows=n_rows, rows=n_rows)
    cross = model.decoder.cross_kv(encoder_output)
    first = []
    for row, prompt in enumerate(prompts):
        cache.write_cross(row, cross[row])
        logits = model.prefill(prompt, cache, RowGroup(row, row, 1), logits_at=(len(prompt) - 1,))
        first.append(int(logits[0].argmax()))
    steps = [torch.tensor(first)]
    for step in range(n_steps - 1):
        positions = [len(prompt) + step for prompt in prompts]
        steps.append(model.decode(steps[-1], positions, cache).argmax(dim=-1))
    found: list[list[int]] = torch.stack(steps, dim=1).tolist()
    return found


def assert_tokens_match(found: Sequence[int], reference: Reference, tally: Tally) -> None:
    """Compare up to the first divergence, which only a tie of the reference excuses."""
    assert len(found) == len(reference.tokens)
    tally.cases += 1
    for step, (ours, theirs) in enumerate(zip(found, reference.tokens, strict=True)):
        tally.tokens += 1
        if ours == theirs:
            continue
        margin = reference.margins[step]
        assert margin < TIE_MARGIN, f"step {step}: {ours} for {theirs}, its margin was {margin}"
        tally.ties += 1
        return


def assert_lively(rows: Sequence[Reference]) -> None:
    """Refuse a reference that says the same again and again, or the same whatever it hears."""
    for row in rows:
        assert len(set(row.tokens)) >= MIN_DISTINCT_TOKENS
    for other in rows[1:]:
        pairs = list(zip(rows[0].tokens, other.tokens, strict=True))
        assert sum(a != b for a, b in pairs) > len(pairs) // 4


def assert_ties_are_rare(tally: Tally) -> None:
    """Refuse more ties than one in a thousand tokens."""
    assert tally.ties * 1000 <= tally.tokens, f"{tally.ties} ties in {tally.tokens} tokens"


def largest(difference: Tensor | NDArray[np.float32]) -> float:
    """Return the largest absolute value."""
    return float(torch.as_tensor(difference).abs().max())
