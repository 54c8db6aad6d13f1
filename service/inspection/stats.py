"""Figures of one tensor, in bounded memory. Knows nothing about files."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

_CHUNK = 1 << 20
"""Numbers that are looked at together."""


@dataclass(frozen=True, slots=True)
class TensorStats:
    """Figures over the finite numbers of a tensor; None where there is none.

    Attributes:
        mean, std, min, max: `std` divides by the count.
        nan_count, inf_count: numbers that are not finite.
        zero_count: numbers that are exactly zero.
    """

    mean: float | None
    std: float | None
    min: float | None
    max: float | None
    nan_count: int
    inf_count: int
    zero_count: int

    def to_json(self) -> dict[str, float | int | None]:
        """Return the figures by name."""
        return asdict(self)


def measure(tensor: Tensor) -> TensorStats:
    """Return a tensor's figures, added up in float64."""
    chunks = torch.split(tensor.flatten(), _CHUNK)
    n = nans = infs = zeros = 0
    total, least, most = 0.0, math.inf, -math.inf
    for chunk in chunks:
        values = chunk.double()
        finite = values[values.isfinite()]
        nans += int(values.isnan().sum())
        infs += int(values.isinf().sum())
        zeros += int((values == 0).sum())
        if finite.numel():
            n += finite.numel()
            total += finite.sum().item()
            least = min(least, finite.min().item())
            most = max(most, finite.max().item())
    if not n:
        return TensorStats(None, None, None, None, nans, infs, zeros)
    mean = total / n
    squares = 0.0
    for chunk in chunks:
        values = chunk.double()
        squares += torch.where(values.isfinite(), values - mean, 0.0).square().sum().item()
    return TensorStats(mean, math.sqrt(squares / n), least, most, nans, infs, zeros)
