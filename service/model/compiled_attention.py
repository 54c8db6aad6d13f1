"""Attention of all positions of a window to all, as a function of `compiled.c`.

Its products are of 8-bit integers, of which a CPU without tiles (AMX) multiplies four times as many
as of float32. Knows nothing about where it is used.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from service.model.compiled import address

INTEGER_HEADS = (32, 64)
"""Numbers of one head that it is compiled for."""
MAX_POSITIONS = 32_767
"""More weights of 16 bits could have a sum that no 32 bits hold."""
_KEYS = 64
"""Keys are filled up to a multiple of it."""


class _Heads(ctypes.Structure):
    _fields_ = (("of", ctypes.c_void_p), ("position", ctypes.c_int64), ("head", ctypes.c_int64))


class _Attention(ctypes.Structure):
    _fields_ = (
        *((name, _Heads) for name in ("query", "key", "value")),
        *((name, ctypes.c_int64) for name in ("n", "n_head", "d_head", "n_filled")),
        *(
            (name, ctypes.c_void_p)
            for name in ("keys", "key_scales", "key_sums", "values", "value_scales", "context")
        ),
    )


def attend_in_integers(compiled: ctypes.CDLL, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return attention over all positions: f32[b h t d] each -> f32[b h t d], a view of [b t h d].

    What is not finite makes others of its window so, as in any attention, and nothing of another.

    Raises:
        ValueError: if it is not compiled for these.
    """
    n_windows, n_head, n, d_head = query.shape
    for part in (query, key, value):
        if part.shape != query.shape or part.dtype != torch.float32 or part.stride(-1) != 1:
            raise ValueError(f"{tuple(part.shape)} in {part.dtype}, not {tuple(query.shape)}")
    if d_head not in INTEGER_HEADS or n > MAX_POSITIONS:
        raise ValueError(f"{n} positions and heads of {d_head}")
    n_filled = -(-n // _KEYS) * _KEYS
    keys, values = torch.empty(2, n_head * n_filled * d_head, dtype=torch.int8).unbind(0)
    key_sums = torch.empty(n_head * n_filled, dtype=torch.int32)
    key_scales, value_scales = torch.empty(n_head * n_filled), torch.empty(n_head * d_head)
    context = torch.empty(n_windows, n, n_head, d_head)
    for window in range(n_windows):
        attention = _Attention(
            _heads(query[window]), _heads(key[window]), _heads(value[window]),
            n, n_head, d_head, n_filled, address(keys), address(key_scales), address(key_sums),
            address(values), address(value_scales), address(context[window]),
        )  # fmt: skip
        compiled.attend_in_integers(ctypes.byref(attention), torch.get_num_threads())
    return context.transpose(1, 2)


def _heads(x: Tensor) -> _Heads:
    """Say where [h t d] is."""
    head, position, _ = x.stride()
    return _Heads(address(x), position, head)
