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
"""Outputs whose weights stand together in memory for the compiled head."""


def quantise(x: Tensor) -> tuple[Tensor, Tensor]:
    """f32[n k] -> integers u8[n k] and scales f32[n 1], with x = scale * (integer - 128).

    A row that is not finite has a scale that is not.
    """
    if (compiled := library()) is not None and x.shape[1] % LANES == 0:
        x = x.contiguous()
        integers, scales = torch.empty_like(x, dtype=torch.uint8), x.new_empty(len(x), 1)
        compiled.quantise(
            address(x), ctypes.c_int64(len(x)), ctypes.c_int64(x.shape[1]),
            address(integers), address(scales), torch.get_num_threads(),
        )  # fmt: skip
        return integers, scales
    scales = x.abs().amax(dim=-1, keepdim=True) / _LEVELS
    scales = scales.clamp_min(torch.finfo(torch.float32).tiny)
    return (x / scales).round_().add_(_ZERO_POINT).to(torch.uint8), scales


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
        out = out.mul_(scales) if self._bias is None else _rescaled(out, scales, self._bias)
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


def _rescaled(out: Tensor, scales: Tensor, bias: Tensor) -> Tensor:
    """f32[n m], f32[n 1], f32[m] -> out * scales + bias, f32[n m], perhaps in place."""
    if (compiled := library()) is None:
        return torch.addcmul(bias, out, scales)
    compiled.rescale(
        address(out), address(scales), address(bias),
        ctypes.c_int64(out.shape[0]), ctypes.c_int64(out.shape[1]), torch.get_num_threads(),
    )  # fmt: skip
    return out


class Int8Head(nn.Module):
    """A linear without a bias by a compiled product, which reads weights as fast as they come.

    oneDNN takes twice as long for few rows. For the LM head, which has most of a step's weights.

    Args:
        compiled: the library.
        weight: f32[n_out n_in].
    """

    def __init__(self, compiled: ctypes.CDLL, weight: Tensor) -> None:
        super().__init__()
        integers, self._scales = as_integers(weight)
        self._sums = integers.sum(dim=1, dtype=torch.int32) * _ZERO_POINT
        self._n_out, self._n_in = weight.shape
        filled = pad(integers, (0, 0, 0, -self._n_out % _COLUMNS))
        by_four = filled.view(-1, _COLUMNS, self._n_in // 4, 4)  # [tile column k 4]
        self._weight = by_four.transpose(1, 2).contiguous()
        self._compiled = compiled
        self._struct = _Head(
            address(self._weight), address(self._sums), address(self._scales),
            self._n_in, self._n_out,
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """f32[... n_in] -> f32[... n_out]. A row that is not finite stays so, and its own."""
        rows = x.flatten(0, -2)
        integers, scales = quantise(rows)
        out = x.new_empty(len(rows), self._n_out)
        self._compiled.lm_head(
            ctypes.byref(self._struct), address(integers), address(scales),
            ctypes.c_int64(len(rows)), address(out), torch.get_num_threads(),
        )  # fmt: skip
        return torch.unflatten(out, 0, x.shape[:-1])


class _Head(ctypes.Structure):
    _fields_ = (
        ("weight", ctypes.c_void_p), ("sums", ctypes.c_void_p), ("scales", ctypes.c_void_p),
        ("n_in", ctypes.c_int64), ("n_out", ctypes.c_int64),
    )  # fmt: skip


def int8_head(weight: Tensor) -> Int8Head | Int8Linear:
    """Return the head of a weight, f32[n_vocab d_model], compiled if it can be."""
    compiled = library()
    if compiled is not None and weight.shape[1] % LANES == 0:
        return Int8Head(compiled, weight)
    return Int8Linear(weight)
