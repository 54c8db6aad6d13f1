"""Attention in 8-bit integers is attention, each window by itself."""

from __future__ import annotations

import re
from collections.abc import Callable
from ctypes import CDLL
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from service.model.compiled_attention import attend_in_integers

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]

SHAPES = [
    (2, 64, 1500),
    (3, 32, 161),
    (6, 64, 500),
    (2, 32, 64),
    (1, 64, 3),
    (2, 64, 1),
    (1, 32, 67),
]
"""Heads, their width, and positions."""


def drawn(n_windows: int, n_head: int, d_head: int, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value as a fused projection has them, its keys far from zero."""
    generator = torch.Generator().manual_seed(n)
    fused = torch.randn(n_windows, n, 3, n_head, d_head, generator=generator)
    fused[:, :, 0] *= 2
    fused[:, :, 1] += 3 * torch.randn(n_head, d_head, generator=generator)
    query, key, value = fused.permute(2, 0, 3, 1, 4)
    return query, key, value


@pytest.fixture
def found(library: CDLL) -> Attention:
    return partial(attend_in_integers, library)


@pytest.mark.parametrize(("n_head", "d_head", "n"), SHAPES)
def test_it_is_that_of_torch(found: Attention, n_head: int, d_head: int, n: int) -> None:
    query, key, value = drawn(2, n_head, d_head, n)
    expected = scaled_dot_product_attention(query, key, value)
    own = found(query, key, value)
    assert own.shape == expected.shape
    assert own.transpose(1, 2).is_contiguous()
    assert float((own - expected).norm() / expected.norm()) < 0.02


def test_weights_of_a_thousandth_count_together(found: Attention) -> None:
    """One key has as much weight as a thousand others: 8 bits would leave those out."""
    n = 1001
    query, key = torch.zeros(1, 1, n, 64), torch.zeros(1, 1, n, 64)
    query[..., 0] = 1.0
    key[0, 0, 0, 0] = 8 * torch.tensor(1000.0).log()
    value = torch.ones(1, 1, n, 64)
    value[0, 0, 0] = -1.0
    weights = (query[0, 0] @ key[0, 0].T / 8).softmax(dim=-1)[0]
    assert float(weights[0]) == pytest.approx(0.5, abs=1e-4)
    assert float(found(query, key, value).abs().max()) < 0.02


def test_no_window_changes_a_bit_of_another_and_no_number_of_threads(found: Attention) -> None:
    together = drawn(3, 3, 64, 333)
    n_threads = torch.get_num_threads()
    try:
        results = []
        for number in (1, 2, 5):
            torch.set_num_threads(number)
            results.append(found(*together))
    finally:
        torch.set_num_threads(n_threads)
    assert all(torch.equal(one, results[0]) for one in results)
    for window in range(3):
        alone = found(*(part[window : window + 1] for part in together))
        assert torch.equal(alone[0], results[0][window])


@pytest.mark.parametrize("which", ["query", "key", "value"])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_is_not_finite_is_seen_in_its_window_and_in_no_other(
    found: Attention, which: str, number: float
) -> None:
    parts = dict(zip(("query", "key", "value"), drawn(2, 2, 32, 70), strict=True))
    right = found(*parts.values())
    parts[which][0, 1, 40, 5] = number
    own = found(*parts.values())
    assert not own[0, 1, 40].isfinite().all()
    assert torch.equal(own[1], right[1])
    assert torch.equal(own[0, 0], right[0, 0])


def test_keys_that_are_all_the_same_have_the_same_weight(found: Attention) -> None:
    query, key, value = drawn(1, 1, 64, 200)
    key = key[:, :, :1].expand_as(key)
    expected = value.mean(dim=2, keepdim=True).expand_as(value)
    assert torch.allclose(found(query, key, value), expected, atol=0.02)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda part: part[..., :48], "heads of 48"),
        (lambda part: part.bfloat16(), "bfloat16"),
        (lambda part: part.transpose(-1, -2), "(1, 2, 64, 70)"),
    ],
)
def test_what_it_is_not_compiled_for_is_refused(
    found: Attention, change: Callable[[Tensor], Tensor], complaint: str
) -> None:
    parts = [change(part) for part in drawn(1, 2, 64, 70)]
    with pytest.raises(ValueError, match=re.escape(complaint)):
        found(parts[0], parts[1], parts[2])
