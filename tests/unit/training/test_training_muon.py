"""Muon's updates are nearly orthogonal matrices of the expected size."""

import pytest
import torch
from torch import nn

from training.muon import Muon, orthogonal


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(48, 16), (16, 48), (32, 32)])
def test_singular_values_of_an_update_are_near_one(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    found = orthogonal(torch.randn(shape), dtype)
    values = torch.linalg.svdvals(found.float())
    assert found.shape == shape
    assert 0.5 < float(values.min()) <= float(values.max()) < 1.3


def test_the_first_step_has_the_size_of_one_of_adam() -> None:
    torch.manual_seed(0)
    matrix = nn.Parameter(torch.zeros(64, 64))
    matrix.grad = torch.randn(64, 64) * 1e-3
    Muon([matrix], lr=0.01, weight_decay=0.0).step()
    assert float(matrix.detach().square().mean().sqrt()) == pytest.approx(0.002, rel=0.2)
    assert float((matrix.detach() * matrix.grad).sum()) < 0


def test_it_solves_a_regression() -> None:
    torch.manual_seed(0)
    wanted, layer = torch.randn(8, 8), nn.Linear(8, 8, bias=False)
    optimizer = Muon(layer.parameters(), lr=0.05, weight_decay=0.0)
    for step in range(300):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * (1 - step / 300)
        loss = (layer(torch.eye(8)) - wanted.T).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 1e-3
