"""All key/value memory of the decoder, allocated once. Knows nothing about requests or scheduling.

Two pools with fixed slots and no paging, because Whisper's contexts are fixed:

- cross: one slot a window, written once when the window is encoded;
- self: one row a hypothesis, written token by token.

A step reads rows and slots `[0, B)` as views, without a gather, so the scheduler keeps the running
rows there: row `r` reads the cross slot `r`. `move_row`, `move_window` and `swap_windows` are how
it does that.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from service.model.config import WhisperConfig

KEY_MULTIPLE = 32
"""Key lengths are padded to a multiple of this: shorter ones change the order of summation."""


@dataclass(frozen=True, slots=True)
class CacheView:
    """What one decoder forward over `b` rows with `q` new tokens each reads and writes.

    Shapes: self_kv [l 2 b h k d]; cross_kv [l 2 b h c d]; self_bias f32 [b 1 q k] and cross_bias
    f32 [b 1 1 c] or None, both 0 or -inf; row_index i64 [b 1] and write_index i64 [b q], the places
    of the new keys in self_kv.
    """

    self_kv: Tensor
    cross_kv: Tensor
    self_bias: Tensor
    cross_bias: Tensor | None
    row_index: Tensor
    write_index: Tensor


class KVCache:
    """Owns the cross and self key/value pools of one model.

    Args:
        config: the model's dimensions.
        windows: cross slots, `[l 2 window h n_audio_ctx d]`.
        rows: self rows, `[l 2 row h n_text_ctx d]`.
    """

    def __init__(
        self,
        config: WhisperConfig,
        windows: int,
        rows: int,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        n_head = config.n_text_head
        d_head = config.d_model // n_head
        layers = config.n_text_layer
        self.windows = windows
        self.rows = rows
        self.n_text_ctx = config.n_text_ctx
        self.n_audio_ctx = config.n_audio_ctx
        self.device = torch.device(device)
        self.cross = torch.zeros(
            (layers, 2, windows, n_head, config.n_audio_ctx, d_head), device=device, dtype=dtype
        )
        self.self_ = torch.zeros(
            (layers, 2, rows, n_head, config.n_text_ctx, d_head), device=device, dtype=dtype
        )
        self._cross_lengths = [0] * windows

    @property
    def nbytes(self) -> int:
        """Bytes of both pools."""
        return self.cross.nbytes + self.self_.nbytes

    def write_cross(self, slot: int, key_value: Tensor) -> None:
        """Store one window's cross keys and values, [l 2 h t d], in `slot`."""
        length = key_value.shape[-2]
        self.cross[:, :, slot, :, :length] = key_value
        self._cross_lengths[slot] = length

    def clear_window(self, slot: int) -> None:
        """Zero a cross slot. A NaN in it would reach its next owner: 0 times NaN is NaN."""
        self.cross[:, :, slot].zero_()

    def clear_row(self, row: int) -> None:
        """Zero a self row, for the same reason."""
        self.self_[:, :, row].zero_()

    def move_row(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` self keys and values of row `source` over row `target`."""
        self.self_[:, :, target, :, :length] = self.self_[:, :, source, :, :length]

    def move_window(self, source: int, target: int) -> None:
        """Copy cross slot `source` over slot `target`."""
        length = self._cross_lengths[source]
        self.cross[:, :, target, :, :length] = self.cross[:, :, source, :, :length]
        self._cross_lengths[target] = length

    def swap_windows(self, first: int, second: int) -> None:
        """Exchange two cross slots."""
        lengths = self._cross_lengths
        longest = max(lengths[first], lengths[second])
        kept = self.cross[:, :, first, :, :longest].clone()
        self.cross[:, :, first, :, :longest] = self.cross[:, :, second, :, :longest]
        self.cross[:, :, second, :, :longest] = kept
        lengths[first], lengths[second] = lengths[second], lengths[first]

    def view(self, first: int, positions: list[int], n_query: int) -> CacheView:
        """Return the view for rows `first ...`, whose next tokens stand at `positions`.

        Raises:
            ValueError: if a row or a position is outside the pools.
        """
        n_rows, last = len(positions), max(positions) + n_query
        if first + n_rows > self.rows or last > self.n_text_ctx:
            raise ValueError(
                f"rows {first}..{first + n_rows} of {self.rows}, positions to {last} "
                f"of {self.n_text_ctx}"
            )
        n_key = min(-(-last // KEY_MULTIPLE) * KEY_MULTIPLE, self.n_text_ctx)
        start = to_device(positions, self.device)[:, None]  # [b 1]
        write_index = start + torch.arange(n_query, device=self.device)  # [b q]
        keys = torch.arange(n_key, device=self.device)
        self_bias = _bias(keys <= write_index[..., None])  # [b q k]
        rows = slice(first, first + n_rows)
        cross_kv, cross_bias = self._cross_view(rows)
        return CacheView(
            self_kv=self.self_[:, :, rows, :, :n_key],
            cross_kv=cross_kv,
            self_bias=self_bias[:, None],
            cross_bias=cross_bias,
            row_index=torch.arange(n_rows, device=self.device)[:, None],
            write_index=write_index,
        )

    def _cross_view(self, rows: slice) -> tuple[Tensor, Tensor | None]:
        lengths = self._cross_lengths[rows]
        longest = -(-max(lengths) // KEY_MULTIPLE) * KEY_MULTIPLE
        n_key = min(longest, self.n_audio_ctx)
        cross_kv = self.cross[:, :, rows, :, :n_key]
        if min(lengths) == n_key:
            return cross_kv, None
        keys = torch.arange(n_key, device=self.device)
        allowed = keys < to_device(lengths, self.device)[:, None]  # [b c]
        return cross_kv, _bias(allowed)[:, None, None]


def to_device(values: list[int], device: torch.device) -> Tensor:
    """Return i64[len(values)] on `device`, without waiting for the device."""
    if device.type == "cpu":
        return torch.tensor(values)
    return torch.tensor(values, pin_memory=True).to(device, non_blocking=True)


def _bias(allowed: Tensor) -> Tensor:
    """True -> 0, False -> -inf, in float32."""
    return torch.zeros_like(allowed, dtype=torch.float32).masked_fill(~allowed, float("-inf"))
