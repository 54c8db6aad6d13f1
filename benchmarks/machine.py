"""How fast this machine reads memory and multiplies, measured now. Knows nothing about models."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from service.model.packed import PackedLinear, int8_linear_of_windows
from service.model.timing import best_seconds

READ_BYTES = 1 << 29
"""Far more than any cache."""
SHAPES = ((1500, 384, 1536), (1500, 1536, 384), (1500, 2048, 2048), (3000, 1024, 4096))
"""Rows, inputs, outputs; the best of them counts."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What the hardware gives.

    Attributes:
        read: bytes a second, of memory that is in no cache.
        flops: operations a second of a matrix product, for each dtype.
    """

    read: float
    flops: dict[torch.dtype, float]


def measure(dtypes: tuple[torch.dtype, ...]) -> Machine:
    """Measure memory, and products in these dtypes, with torch's threads as they are set."""
    floats = torch.ones(READ_BYTES // 4)
    read = READ_BYTES / best_seconds(floats.sum)[0]
    return Machine(read, {dtype: _flops(dtype) for dtype in dtypes})


def _flops(dtype: torch.dtype) -> float:
    best = 0.0
    for n_rows, n_in, n_out in SHAPES:
        weight = torch.randn(n_out, n_in)
        x = torch.randn(n_rows, n_in)
        product: nn.Module
        if dtype == torch.int8:
            product = int8_linear_of_windows(weight)
        else:
            product, x = PackedLinear(weight, None, dtype), x.to(dtype)
        best = max(best, 2 * n_rows * n_in * n_out / best_seconds(partial(product, x))[0])
    return best
