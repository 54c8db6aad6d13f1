"""Linears on 8-bit integers, whose sums are exact whatever stands beside them.

Weights have a scale for each output, activations one for each row:
`y = s_row * s_output * (q @ w) + bias` with integers q and w. With one scale for all rows, as
dynamic quantisation usually has it, a loud row would change its neighbours.

Knows nothing about where the linears stand.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from service.model.blocks import blocks, in_blocks
from service.model.compiled import LANES, address, library

_LEVELS = 127
"""Largest 8-bit integer of a scaled row."""
_ZERO_POINT = 128
"""Activations are unsigned: oneDNN's kernels for signed ones are hundreds of times slower."""
_COLUMNS = 64
"""Outputs whose weights stand together in memory for what is compiled."""


def quantise(x: Tensor) -> tuple[Tensor, Tensor]:
    """f32[n k] -> integers u8[n k] and scales f32[n 1], with x = scale * (integer - 128).

    A row that is not finite has a scale that is not.
    """
    scales = x.abs().amax(dim=-1, keepdim=True) / _LEVELS
    scales = scales.clamp_min(torch.finfo(torch.float32).tiny)
    return (x * scales.reciprocal()).round_().add_(_ZERO_POINT).to(torch.uint8), scales


def as_integers(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A weight f32[n_out n_in] -> integers i8[n_out n_in] and scales f32[n_out]."""
    scales = (weight.abs().amax(dim=1) / _LEVELS).clamp_min(torch.finfo(torch.float32).tiny)
    return (weight / scales[:, None]).round_().to(torch.int8), scales


class Int8Linear(nn.Module):
    """A linear by oneDNN's products.

    Args:
        weight: f32[n_out n_in].
        bias: f32[n_out], or None.
        kept: multiples of how many rows are computed at once.

    Attributes:
        shape: (n_out, n_in).
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None, kept: int = 0) -> None:
        super().__init__()
        self.shape: tuple[int, ...] = tuple(weight.shape)
        self._kept = kept
        integers, self._scales = as_integers(weight)
        self._zeros = torch.zeros(len(weight), dtype=torch.int64)
        self._weight: Tensor = torch.ops.onednn.qlinear_prepack(integers, None)
        self._bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """f32[... n_in] -> f32[... n_out]. A row that is not finite stays so, and its own."""
        integers, scales = quantise(x.flatten(0, -2))
        out = in_blocks(self._product, integers, self._kept)
        out.mul_(scales)
        if self._bias is not None:
            out.add_(self._bias)
        return torch.unflatten(out, 0, x.shape[:-1])

    def blocks(self, n_rows: int) -> list[int]:
        """Return in which numbers of rows it computes so many."""
        return blocks(n_rows, self._kept)

    def _product(self, integers: Tensor) -> Tensor:
        """u8[n n_in] -> f32[n n_out], without the scales of the rows and the bias."""
        out: Tensor = torch.ops.onednn.qlinear_pointwise(
            integers, 1.0, _ZERO_POINT, self._weight, self._scales, self._zeros, None,
            1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        return out


class LinearStruct(ctypes.Structure):
    """A linear as what is compiled knows it."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "sums", "scales", "bias")),
        ("n_in", ctypes.c_int64), ("n_out", ctypes.c_int64),
    )  # fmt: skip


class CompiledInt8Linear(nn.Module):
    """An `Int8Linear` by one compiled function, bit for bit.

    oneDNN takes twice as long for few rows and for small matrices, and what is around its product
    in torch's operations as long again.

    Args:
        compiled: the library.
        weight: f32[n_out n_in], of whole vectors.
        bias: f32[n_out], or None.

    Attributes:
        shape: (n_out, n_in).
        struct: where its numbers are, for as long as it lives.
    """

    def __init__(self, compiled: ctypes.CDLL, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.shape: tuple[int, ...] = tuple(weight.shape)
        integers, self._scales = as_integers(weight)
        self._sums = integers.sum(dim=1, dtype=torch.int32) * _ZERO_POINT
        self._bias = None if bias is None else bias.detach().contiguous()
        filled = pad(integers, (0, 0, 0, -weight.shape[0] % _COLUMNS))
        by_four = filled.view(-1, _COLUMNS, weight.shape[1] // 4, 4)  # [tile column k 4]
        self._weight = by_four.transpose(1, 2).contiguous()
        self._compiled = compiled
        self.struct = LinearStruct(
            address(self._weight), address(self._sums), address(self._scales),
            None if self._bias is None else address(self._bias), weight.shape[1], weight.shape[0],
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """f32[... n_in] -> f32[... n_out]. A row that is not finite stays so, and its own."""
        n_out, n_in = self.shape
        if x.shape[-1] != n_in or x.dtype != torch.float32:
            raise ValueError(f"{tuple(x.shape)} in {x.dtype}, not [... {n_in}] in float32")
        x = x.contiguous()
        n_rows = x.numel() // n_in
        out, scales = x.new_empty(*x.shape[:-1], n_out), x.new_empty(n_rows)
        integers = torch.empty(n_rows * n_in, dtype=torch.uint8)
        self._compiled.integer_linear(
            ctypes.byref(self.struct), address(x), ctypes.c_int64(n_rows), address(integers),
            address(scales), address(out), torch.get_num_threads(),
        )  # fmt: skip
        return out


def int8_linear(
    weight: Tensor, bias: Tensor | None = None, kept: int = 0
) -> CompiledInt8Linear | Int8Linear:
    """Return a linear on 8-bit integers, compiled if it can be; the arguments are theirs."""
    compiled = library()
    if compiled is not None and weight.shape[1] % LANES == 0:
        return CompiledInt8Linear(compiled, weight, bias)
    return Int8Linear(weight, bias, kept)
