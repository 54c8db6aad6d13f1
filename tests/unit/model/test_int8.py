"""Linears on 8-bit integers: about as exact as eight bits are, and each row by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from service.model.int8 import Int8Head, Int8Linear, int8_head, quantise
from tests.unit.model.cpus import compiled, here

Make = Callable[[Tensor], nn.Module]


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    here("mixed-decoder")
    with torch.inference_mode():
        yield


@pytest.fixture(params=["compiled", "by oneDNN", "with a bias"])
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Make:
    """What makes a linear of a weight."""
    if request.param == "with a bias":
        return lambda weight: Int8Linear(weight, torch.zeros(len(weight)))
    if request.param == "by oneDNN":
        monkeypatch.setattr("service.model.int8.library", lambda: None)
    else:
        compiled()
    return int8_head


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("n_out", [64, 500, 513])
@pytest.mark.parametrize("n_rows", [1, 3, 4, 7, 24, 41])
def test_error_is_about_a_hundredth(make: Make, n_rows: int, n_out: int) -> None:
    weight, x = torch.randn(n_out, 64), torch.randn(n_rows, 64)
    found = make(weight)(x)
    assert found.shape == (n_rows, n_out)
    assert relative_error(found, linear(x, weight)) < 0.015


def test_rows_may_have_any_shape(make: Make) -> None:
    product, x = make(torch.randn(70, 64)), torch.randn(2, 3, 64)
    assert torch.equal(product(x), product(x.flatten(0, 1)).view(2, 3, 70))


def test_bias_is_added() -> None:
    weight, bias, x = torch.randn(80, 64), torch.randn(80) * 10, torch.randn(2, 5, 64)
    found = Int8Linear(weight, bias)(x)
    assert found.shape == (2, 5, 80)
    assert relative_error(found, linear(x, weight, bias)) < 0.015


def test_loud_neighbour_changes_no_bit_of_a_row(make: Make) -> None:
    """With one scale for all rows it would: the quiet row would be a few steps of the scale."""
    product = make(torch.randn(500, 64))
    quiet = torch.randn(1, 64) * 0.01
    alone = product(quiet)
    for n_rows in (2, 3, 5, 16, 33):
        beside = torch.cat([torch.randn(n_rows - 1, 64) * 1000, quiet])
        assert torch.equal(product(beside)[-1:], alone)


@pytest.mark.parametrize("lost", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_stays_in_its_own_row(make: Make, lost: float) -> None:
    weight = torch.randn(500, 64)
    weight[7] = 0  # an output without a scale of its own
    product, x = make(weight), torch.randn(4, 64)
    x[1, 3], x[2] = lost, 0
    found = product(x)
    assert not found[1].isfinite().any()
    assert found[2].eq(0).all()
    assert found[[0, 3]].isfinite().all()
    assert found[:, 7][[0, 2, 3]].eq(0).all()


def test_what_is_compiled_has_the_bits_of_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled()
    weight, x = torch.randn(700, 96), torch.randn(37, 96) * torch.logspace(-3, 3, 37)[:, None]
    head, integers, scales = int8_head(weight), *quantise(x)
    found, in_rows = head(x), Int8Linear(weight, torch.ones(700))(x)
    monkeypatch.setattr("service.model.int8.library", lambda: None)
    right, right_scales = quantise(x)
    assert torch.equal(integers, right)
    assert torch.equal(scales, right_scales)
    assert isinstance(head, Int8Head)
    assert torch.equal(found, cast("Tensor", int8_head(weight)(x)))
    assert torch.allclose(in_rows, Int8Linear(weight, torch.ones(700))(x), atol=1e-5)


def test_rows_that_are_no_whole_vectors_are_left_to_torch() -> None:
    weight, x = torch.randn(50, 40), torch.randn(3, 40)
    product = int8_head(weight)
    assert isinstance(product, Int8Linear)
    assert relative_error(product(x), linear(x, weight)) < 0.015


def test_rows_that_do_not_lie_one_after_another_are_read_right() -> None:
    x = torch.randn(64, 6)
    for found, expected in zip(quantise(x.t()), quantise(x.t().contiguous()), strict=True):
        assert torch.equal(found, expected)
