"""From cross-attention to a matrix of tokens and times.

Formula: openai/whisper `timing.py` `find_alignment`: softmax over the audio, standardised over the
tokens, a median over 7 positions, the mean over the heads. The path through it is `dtw.py`'s, the
words are `words.py`'s.

Knows nothing about models or requests.
"""

from __future__ import annotations

import torch
from torch import Tensor

from service.decoding.median import RunningMedian, running_median


def attention_matrix(scores: Tensor, first: int) -> Tensor:
    """Return how much each token looks at each time.

    Args:
        scores: f32[heads tokens frames], before the softmax; only frames that hold audio.
        first: the first token that counts; all but the last one count from there on.

    Shapes: -> f32[tokens - first - 1, frames].
    """
    n_heads, n_tokens, n_frames = scores.shape
    # One head after the other on a processor: what its cache holds is three times as fast.
    heads = torch.split(scores, 1 if scores.device.type == "cpu" else n_heads)
    if n_frames <= _LEAST_FRAMES:
        return torch.cat([running_median(_standardised(head, first)) for head in heads]).mean(dim=0)
    shape = (heads[0].shape[0], n_tokens - first - 1, n_frames)
    median = RunningMedian(shape, scores.device)
    total = median(_standardised(heads[0], first)).sum(dim=0)
    for head in heads[1:]:
        total += median(_standardised(head, first)).sum(dim=0)
    return median.interleaved(total / n_heads)


_LEAST_FRAMES = 3
"""There is no median of so few."""


def _standardised(scores: Tensor, first: int) -> Tensor:
    """[h tokens frames] -> [h tokens-first-1 frames]: the counting tokens' share of each time."""
    weights = scores.softmax(dim=-1)
    centred = weights - weights.mean(dim=-2, keepdim=True)
    deviation = centred.square().mean(dim=-2, keepdim=True).sqrt()
    # Where no token looks at all, every weight is 0, and so is their deviation.
    return centred[:, first:-1] / deviation.masked_fill_(deviation == 0, 1.0)
