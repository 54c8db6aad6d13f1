"""How fast this machine reads memory and multiplies, measured now. Knows nothing about models."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from service.model.packed import Int8Head, PackedLinear

READ_BYTES = 1 << 29
"""Far more than any cache."""
SHAPES = ((1500, 384, 1536), (1500, 1536, 384), (1500, 2048, 2048), (3000, 1024, 4096))
"""Rows, inputs, outputs; the best of them counts."""
REPEATS = 7


@dataclass(frozen=True, slots=True)
class Machine:
    """What the hardware gives.

    Attributes:
        read: bytes a second, of memory that is in no cache.
        flops: operations a second of a matrix product, for each dtype.
    """

    read: float
    flops: dict[torch.dtype, float]


def best_s(call: Callable[[], object], repeats: int = REPEATS) -> float:
    """Return the shortest time of several calls, after one that does not count."""
    call()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return min(times)


def measure(dtypes: tuple[torch.dtype, ...]) -> Machine:
    """Measure memory, and products in these dtypes, with torch's threads as they are set."""
    floats = torch.ones(READ_BYTES // 4)
    read = READ_BYTES / best_s(floats.sum)
    return Machine(read, {dtype: _flops(dtype) for dtype in dtypes})


def _flops(dtype: torch.dtype) -> float:
    best = 0.0
    for n_rows, n_in, n_out in SHAPES:
        weight = torch.randn(n_out, n_in)
        x = torch.randn(n_rows, n_in)
        product: nn.Module
        if dtype == torch.int8:
            product = Int8Head(weight)
        else:
            product, x = PackedLinear(weight, None, dtype), x.to(dtype)
        best = max(best, 2 * n_rows * n_in * n_out / best_s(partial(product, x)))
    return best
