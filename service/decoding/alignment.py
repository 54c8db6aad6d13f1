"""From cross-attention to a matrix of tokens and times.

Formula: openai/whisper `timing.py` `find_alignment`: softmax over the audio, standardised over the
tokens, a median over 7 positions, the mean over the heads. The path through it is `dtw.py`'s, the
words are `words.py`'s.

Knows nothing about models or requests.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

MEDIAN_WIDTH = 7
_BLOCK = 1 << 16
"""Values that are filtered at once: what a processor's cache holds is twice as fast."""


def attention_matrix(scores: Tensor, first: int) -> Tensor:
    """Return how much each token looks at each time.

    Args:
        scores: f32[heads tokens frames], before the softmax; only frames that hold audio.
        first: the first token that counts; all but the last one count from there on.

    Shapes: -> f32[tokens - first - 1, frames].
    """
    weights = scores.softmax(dim=-1)
    std, mean = torch.std_mean(weights, dim=-2, keepdim=True, correction=0)
    rows = weights[:, first:-1]
    standardised = (rows - mean) / std
    # Where no token looks at all, every weight is 0, and so is their deviation.
    standardised = standardised.masked_fill_(std == 0, 0.0)
    return median_filter(standardised).mean(dim=0)


def median_filter(x: Tensor) -> Tensor:
    """Return the running median over 7 positions of the last axis, reflected at its ends.

    Formula: openai/whisper `timing.py` `median_filter`. Too few positions to reflect are left.
    """
    reach = MEDIAN_WIDTH // 2
    if x.shape[-1] <= reach:
        return x
    flat = x.reshape(-1, x.shape[-1])
    if x.device.type != "cpu":
        return _median_of_seven(pad(flat, (reach, reach), mode="reflect")).reshape(x.shape)
    n_rows = max(1, _BLOCK // flat.shape[1])
    blocks = [
        _median_of_seven(pad(rows, (reach, reach), mode="reflect"))
        for rows in torch.split(flat, n_rows)
    ]
    return torch.cat(blocks).reshape(x.shape)


def _median_of_seven(x: Tensor) -> Tensor:
    """[n t+6] -> [n t], by comparing whole rows with each other.

    The three inner pairs of each seven are sorted once and shared by all windows that hold them.
    """
    n = x.shape[1] - MEDIAN_WIDTH + 1
    low, high = torch.minimum(x[:, :-1], x[:, 1:]), torch.maximum(x[:, :-1], x[:, 1:])
    lows = [low[:, at : at + n] for at in (0, 2, 4)]
    highs = [high[:, at : at + n] for at in (0, 2, 4)]
    # The smallest of three lows has four values above it, the largest of three highs four below.
    least, middle_low, most_low = _sort_three(*lows)
    least_high, middle_high, most = _sort_three(*highs)
    del least, most
    return _median_of_five(middle_low, most_low, least_high, middle_high, x[:, 6 : 6 + n])


def _sort_three(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    low, high = torch.minimum(a, b), torch.maximum(a, b)
    rest = torch.minimum(high, c)
    return torch.minimum(low, rest), torch.maximum(low, rest), torch.maximum(high, c)


def _median_of_five(a: Tensor, b: Tensor, c: Tensor, d: Tensor, e: Tensor) -> Tensor:
    """`a` is at most `b`, and `c` at most `d`."""
    low = torch.maximum(a, c)
    high = torch.minimum(b, d)
    return torch.maximum(torch.minimum(low, high), torch.minimum(torch.maximum(low, high), e))
