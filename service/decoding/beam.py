"""The device's part of a beam search: which continuations are the best. Keeps nothing.

For all windows of a batch at once and without waiting for the device; the account of what has
ended is the host's (`hypotheses.py`). Order and arithmetic are those of openai/whisper's
`BeamSearchDecoder.update`: float32 sums, the `beam_size + 1` likeliest tokens of each beam, and a
stable order by falling score.

Knows nothing about rules, rows of caches or requests.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from service.decoding.hypotheses import Candidates


@dataclass(frozen=True, slots=True)
class Beams:
    """The beams that go on, and all candidates for the host.

    Shapes: tokens i64[n*w]; sources i64[n*w], which beam of all n*w each goes on from; scores
    f32[n*w]; packed f64[n 1+4*m], see `candidates`.
    """

    tokens: Tensor
    sources: Tensor
    scores: Tensor
    packed: Tensor


def rank_beams(logprobs: Tensor, tokens: Tensor, scores: Tensor, beam_size: int, eot: int) -> Beams:
    """Choose the beams that go on.

    Args:
        logprobs: f32[b k], of the likeliest tokens of each row.
        tokens: i64[b k], those.
        scores: f32[b], cumulated up to here.
        beam_size: w. Rows are `n * w`, or one, from which all beams of a first step go on.
        eot: the token that ends a hypothesis.
    """
    n_rows, n_tokens = logprobs.shape
    per_window = min(n_rows, beam_size)
    failed = ~logprobs[:, 0].isfinite().reshape(-1, per_window).all(dim=1)  # [n]
    total = (scores[:, None] + logprobs).reshape(-1, per_window * n_tokens)  # [n m]
    order = total.sort(dim=1, descending=True, stable=True)
    sorted_tokens = tokens.reshape(total.shape).gather(1, order.indices)
    sources = order.indices // n_tokens
    going_on = sorted_tokens != eot
    # The first `beam_size` that go on, in order: a stable sort puts them to the front.
    kept = (~going_on).to(torch.uint8).sort(dim=1, stable=True).indices[:, :beam_size]
    n_windows = total.shape[0]
    first_rows = torch.arange(n_windows, device=tokens.device)[:, None] * per_window
    packed = torch.cat(
        [
            failed[:, None].double(),
            sorted_tokens.double(),
            logprobs.reshape(total.shape).gather(1, order.indices).double(),
            sources.double(),
            order.values.double(),
        ],
        dim=1,
    )
    return Beams(
        tokens=sorted_tokens.gather(1, kept).flatten(),
        sources=(first_rows + sources.gather(1, kept)).flatten(),
        scores=order.values.gather(1, kept).flatten(),
        packed=packed,
    )


def candidates(packed: list[float], no_speech_prob: float | None = None) -> Candidates:
    """Return what one window's row of `Beams.packed` says."""
    failed, rest = packed[0], packed[1:]
    n = len(rest) // 4
    tokens, logprobs, sources, scores = (rest[at : at + n] for at in range(0, 4 * n, n))
    return Candidates(
        tokens=tuple(map(int, tokens)),
        logprobs=tuple(logprobs),
        sources=tuple(map(int, sources)),
        scores=tuple(scores),
        failed=bool(failed),
        no_speech_prob=no_speech_prob,
    )
