"""Dynamic time warping of tokens onto times. Pure numpy; knows nothing about attention.

The path is that of openai/whisper `timing.py` `dtw_cpu`: it starts in one corner, ends in the
other, and goes to the next token, the next time or both in each step. Within a row of the cost
matrix each value depends on the one before it; the smallest sum of a run is a difference of two
prefix sums, so a row is a running minimum and costs a few array operations.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SECONDS_PER_FRAME = 0.02
_PIECE = 32


def token_starts(matrix: NDArray[np.float32]) -> tuple[float, ...]:
    """Return the seconds at which the best path enters each row.

    Args:
        matrix: f32[tokens frames], the higher the better the match.
    """
    return tuple((frame / 50) for frame in warp(-matrix.astype(np.float64)))


def warp(cost: NDArray[np.float64]) -> list[int]:
    """Return the frame at which the cheapest path enters each row: f64[tokens frames]."""
    n_tokens, n_frames = cost.shape
    sums = np.cumsum(cost, axis=1)
    total = np.empty((n_tokens + 1, n_frames + 1))
    total[0, 1:] = total[1:, 0] = np.inf
    total[0, 0] = 0.0
    before = sums - cost
    best = np.empty(n_frames)
    for row in range(n_tokens):
        above, own = total[row], total[row + 1, 1:]
        np.minimum(above[:-1], above[1:], out=best)
        np.subtract(best, before[row], out=best)
        np.minimum.accumulate(best, out=own)
        np.add(own, sums[row], out=own)
    return _entries(total)


def _entries(total: NDArray[np.float64]) -> list[int]:
    """Go back from the last corner -> the first frame of each row.

    A row is looked at in pieces, since the path leaves it soon and a list is faster than an array.
    """
    row, frame = total.shape[0] - 1, total.shape[1] - 1
    entries = [0] * row
    while row > 0 and frame > 0:
        before = max(0, frame - _PIECE)
        above, own = (total[at, before : frame + 1].tolist() for at in (row - 1, row))
        while frame > before:
            entries[row - 1] = frame - 1
            place = frame - before
            both, down, along = above[place - 1], above[place], own[place - 1]
            if both < down and both < along:
                row, frame = row - 1, frame - 1
                break
            if down < both and down < along:
                row -= 1
                break
            frame -= 1
    return entries
