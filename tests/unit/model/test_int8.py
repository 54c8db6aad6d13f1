"""Linears on 8-bit integers: about as exact as eight bits are, and each row by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from service.model.int8 import CompiledInt8Linear, Int8Linear, as_integers, int8_linear, quantise
from tests.unit.model.cpus import INSTRUCTIONS, compiled_for, has_vnni

Make = Callable[..., nn.Module]


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(params=[*INSTRUCTIONS, "by oneDNN"])
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Make:
    """What makes a linear of a weight, and of a bias perhaps."""
    if request.param == "by oneDNN":
        has_vnni()
        monkeypatch.setattr("service.model.int8.library", lambda: None)
    else:
        compiled_for(request.param, monkeypatch)
    return int8_linear


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


def test_bias_is_added(make: Make) -> None:
    weight, bias, x = torch.randn(80, 64), torch.randn(80) * 10, torch.randn(2, 5, 64)
    found = make(weight, bias)(x)
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


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(
    ("n_rows", "n_in", "n_out"),
    [(1, 64, 500), (3, 512, 64), (37, 96, 700), (64, 528, 65), (65, 1040, 16), (150, 1536, 192)],
)
def test_its_sums_are_exact(
    make: Make, n_rows: int, n_in: int, n_out: int, with_bias: bool
) -> None:
    """Deep rows are added up in parts, and many in several tiles."""
    weight, bias = torch.randn(n_out, n_in), torch.randn(n_out) if with_bias else None
    x = torch.randn(n_rows, n_in) * torch.logspace(-3, 3, n_rows)[:, None]
    (integers, of_rows), (weights, of_outputs) = quantise(x), as_integers(weight)
    sums = (integers.double() - 128) @ weights.double().T
    expected = sums.float() * of_outputs * of_rows
    assert torch.equal(make(weight, bias)(x), expected if bias is None else expected + bias)


def test_the_largest_numbers_do_not_overflow(make: Make) -> None:
    """Two products of such bytes are more than 16 bits hold."""
    weight, x = torch.ones(64, 64), torch.ones(5, 64)
    assert torch.allclose(make(weight)(x), torch.full((5, 64), 64.0))


@pytest.mark.parametrize("n_threads", [1, 2, 3, 5])
@pytest.mark.usefixtures("library")
def test_threads_share_it_in_any_number(n_threads: int) -> None:
    linear, x = int8_linear(torch.randn(200, 1040)), torch.randn(131, 1040)
    assert isinstance(linear, CompiledInt8Linear)
    expected, before = linear(x), torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        assert torch.equal(linear(x), expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("library")
def test_what_it_is_not_compiled_for_is_refused() -> None:
    linear = int8_linear(torch.randn(70, 64))
    for x in (torch.randn(3, 48), torch.randn(3, 64, dtype=torch.float64)):
        with pytest.raises(ValueError, match="64"):
            linear(x)
    assert linear(torch.randn(0, 64)).shape == (0, 70)


def test_rows_that_are_no_whole_vectors_are_left_to_torch() -> None:
    has_vnni()
    weight, x = torch.randn(50, 40), torch.randn(3, 40)
    product = int8_linear(weight)
    assert isinstance(product, Int8Linear)
    assert relative_error(product(x), linear(x, weight)) < 0.015


def test_rows_that_do_not_lie_one_after_another_are_read_right(make: Make) -> None:
    product, x = make(torch.randn(70, 64)), torch.randn(64, 6)
    assert torch.equal(product(x.t()), product(x.t().contiguous()))
