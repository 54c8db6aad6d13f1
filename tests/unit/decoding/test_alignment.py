"""Median, path and matrix of an alignment against the plain way to compute them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from service.decoding.alignment import attention_matrix
from service.decoding.dtw import token_starts, warp
from service.decoding.median import running_median


@pytest.mark.parametrize("n_frames", [1, 3, 4, 5, 6, 7, 8, 49, 50, 1499, 1500])
def test_median_is_the_middle_of_seven(n_frames: int) -> None:
    x = torch.randn(2, 5, n_frames, generator=torch.Generator().manual_seed(n_frames))
    if n_frames <= 3:
        assert torch.equal(running_median(x), x)
        return
    padded = torch.nn.functional.pad(x, (3, 3), mode="reflect")
    expected = padded.unfold(-1, 7, 1).sort(dim=-1).values[..., 3]
    assert torch.equal(running_median(x), expected)


def test_median_of_a_row_is_the_same_alone() -> None:
    x = torch.randn(3, 90, 1500, generator=torch.Generator().manual_seed(1))
    together = running_median(x)
    assert torch.equal(together[1, 70:71], running_median(x[1, 70:71]))


def plain_path(cost: np.ndarray) -> list[int]:
    """The cheapest path cell by cell, as openai/whisper `dtw_cpu`."""
    n, m = cost.shape
    total = np.full((n + 1, m + 1), np.inf)
    total[0, 0] = 0
    step = np.zeros((n + 1, m + 1), dtype=int)
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            both, down, along = total[i - 1, j - 1], total[i - 1, j], total[i, j - 1]
            if both < down and both < along:
                best, step[i, j] = both, 0
            elif down < both and down < along:
                best, step[i, j] = down, 1
            else:
                best, step[i, j] = along, 2
            total[i, j] = cost[i - 1, j - 1] + best
    step[0, :], step[:, 0] = 2, 1
    i, j, path = n, m, []
    while i > 0 or j > 0:
        path.append((i - 1, j - 1))
        i, j = i - (step[i, j] != 2), j - (step[i, j] != 1)
    return [min(frame for row, frame in path if row == own) for own in range(n)]


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 9), (9, 1), (5, 4), (12, 40), (60, 45), (3, 200)])
def test_path_is_the_cheapest_one(n: int, m: int) -> None:
    for seed in range(5):
        cost = np.random.default_rng(seed).normal(size=(n, m))
        assert warp(cost) == [max(frame, 0) for frame in plain_path(cost)]


def test_tokens_start_where_they_look() -> None:
    matrix = np.full((4, 40), -1.0, dtype=np.float32)
    for token, (start, end) in enumerate([(0, 10), (10, 12), (12, 30), (30, 40)]):
        matrix[token, start:end] = 1.0
    assert token_starts(matrix) == (0.0, 0.2, 0.24, 0.6)


def test_matrix_is_standardised_over_the_tokens_and_averaged_over_the_heads() -> None:
    scores = torch.randn(3, 8, 30, generator=torch.Generator().manual_seed(2))
    weights = scores.softmax(-1)
    standard = (weights - weights.mean(1, keepdim=True)) / weights.std(
        1, keepdim=True, correction=0
    )
    expected = running_median(standard).mean(0)[2:-1]
    assert torch.allclose(attention_matrix(scores, 2), expected, atol=1e-6)


def test_times_that_no_token_looks_at_are_no_nan() -> None:
    scores = torch.zeros(2, 6, 20)
    scores[..., 10:] = float("-inf")
    assert attention_matrix(scores, 1).isfinite().all()
