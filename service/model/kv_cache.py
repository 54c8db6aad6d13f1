"""All key/value memory of the decoder, allocated once. Knows nothing about requests or scheduling.

Two pools with fixed slots and no paging, because Whisper's contexts are fixed:

- cross: one slot a window, written once when the window is encoded;
- self: one row a hypothesis, written token by token.

A step reads rows and slots as views, without a gather, so the scheduler keeps what runs together
side by side: a `RowGroup`. `move_rows`, `move_window` and `swap_windows` are how it does that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from service.model.config import WhisperConfig
from service.model.places import Place, RowGroup

if TYPE_CHECKING:
    from service.model.watched import WatchedHeads

KEY_MULTIPLE = 32
"""Key lengths are padded to a multiple of this: shorter ones change the order of summation."""


@dataclass(frozen=True, slots=True)
class CacheView:
    """What one decoder forward over `b` rows with `q` new tokens each reads and writes.

    The rows are `b / n` hypotheses each of `n` windows. In cross-attention those are query
    positions of their window, so that its keys and values are read once.

    Shapes: self_kv [l 2 b h k d], what is read of self_pool [l 2 r h p d]; cross_kv [l 2 n h c d];
    self_bias f32 [b 1 q k] and cross_bias f32 [n 1 1 c] or None, both 0 or -inf; row_index i64
    [b 1] and write_index i64 [b q], the places of the new keys in self_pool.

    Attributes:
        watched: who wants to know what heads of the cross-attention look at, if anybody.
    """

    self_kv: Tensor
    self_pool: Tensor
    cross_kv: Tensor
    self_bias: Tensor
    cross_bias: Tensor | None
    row_index: Tensor
    write_index: Tensor
    watched: WatchedHeads | None = None


class KVCache:
    """Owns the cross and self key/value pools of one model.

    Args:
        config: the model's dimensions.
        windows: cross slots, `[l 2 window h n_audio_ctx d]`.
        rows: self rows, `[l 2 row h n_text_ctx d]`.
        device: of both pools.
        dtype: of what they hold.
        cross_dtype: of the cross slots, where that is another one.
        spare_rows: rows after the others that nobody owns: idle rows of a step write there.
    """

    def __init__(
        self,
        config: WhisperConfig,
        windows: int,
        rows: int,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        cross_dtype: torch.dtype | None = None,
        spare_rows: int = 0,
    ) -> None:
        cross, self_ = _shapes(config, windows, rows + spare_rows)
        self.windows = windows
        self.rows = rows
        self.n_text_ctx = config.n_text_ctx
        self.n_audio_ctx = config.n_audio_ctx
        self.device = torch.device(device)
        self.cross = torch.zeros(cross, device=device, dtype=cross_dtype or dtype)
        self.self_ = torch.zeros(self_, device=device, dtype=dtype)
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

    def move_rows(self, sources: list[int], targets: list[int], length: int) -> None:
        """Copy the first `length` self keys and values of each source over its target.

        All are read before the first is written: rows may change places.
        """
        if len(sources) == 1:
            self.self_[:, :, targets[0], :, :length] = self.self_[:, :, sources[0], :, :length]
            return
        read = self.self_[:, :, to_device(sources, self.device), :, :length]
        self.self_[:, :, to_device(targets, self.device), :, :length] = read

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

    def view(self, group: RowGroup, positions: list[int], n_query: int) -> CacheView:
        """Return the view for the rows of a group, whose next tokens stand at `positions`.

        Raises:
            ValueError: if a row, a slot or a position is outside the pools.
        """
        self._check(group, positions, n_query)
        last = max(positions) + n_query
        rows = slice(group.row, group.row + group.n_rows)
        slots = slice(group.slot, group.slot + group.n_windows)
        n_key = min(-(-last // KEY_MULTIPLE) * KEY_MULTIPLE, self.n_text_ctx)
        start = to_device(positions, self.device)[:, None]  # [b 1]
        write_index = start + torch.arange(n_query, device=self.device)  # [b q]
        cross_kv, cross_bias = self._cross_view(slots)
        return CacheView(
            self_kv=self.self_[:, :, rows, :, :n_key],
            self_pool=self.self_,
            cross_kv=cross_kv,
            self_bias=_self_bias(write_index, n_key),
            cross_bias=cross_bias,
            row_index=torch.arange(rows.start, rows.stop, device=self.device)[:, None],
            write_index=write_index,
        )

    def places(self, group: RowGroup, positions: list[int], n_query: int = 1) -> list[Place]:
        """Return where the next `n_query` tokens of each row of a group stand, row after row.

        Raises:
            ValueError: as `view` does.
        """
        self._check(group, positions, n_query)
        found = []
        for n, first in enumerate(positions):
            slot = group.slot + n // group.width
            length = self._cross_lengths[slot]
            found += [
                Place(group.row + n, at, slot, length) for at in range(first, first + n_query)
            ]
        return found

    def fixed_view(
        self, rows: Tensor, positions: Tensor, lengths: Tensor | None, n_key: int, n_cross: int
    ) -> CacheView:
        """Return the view for one new token on each of the first rows, none of it read on the host.

        Row `i` reads its own keys and the window in slot `i`.

        Args:
            rows: i64[b], where each writes: to itself, or to a spare row if it is idle.
            positions: i64[b], where their tokens stand, under `n_key`.
            lengths: i64[b], encoder positions of their windows; None if all have `n_cross`.
            n_key: keys of each that are read.
            n_cross: keys of its window that are read.
        """
        n_rows = rows.shape[0]
        write_index = positions[:, None]
        return CacheView(
            self_kv=self.self_[:, :, :n_rows, :, :n_key],
            self_pool=self.self_,
            cross_kv=self.cross[:, :, :n_rows, :, :n_cross],
            self_bias=_self_bias(write_index, n_key),
            cross_bias=None if lengths is None else _cross_bias(lengths, n_cross),
            row_index=rows[:, None],
            write_index=write_index,
        )

    def of_one_length(self, group: RowGroup) -> list[RowGroup]:
        """Split a group of several hypotheses a window where windows differ in length.

        Several queries over keys of which some are masked are summed in another order than over
        the window's own keys alone. One query is not, so single rows stay together.
        """
        if group.width == 1:
            return [group]
        parts: list[RowGroup] = []
        for n in range(group.n_windows):
            slot = group.slot + n
            if n and self.cross_length(slot) == self.cross_length(slot - 1):
                parts[-1] = replace(parts[-1], n_windows=parts[-1].n_windows + 1)
            else:
                parts.append(RowGroup(group.row + n * group.width, slot, 1, group.width))
        return parts

    def cross_length(self, slot: int) -> int:
        """Return the encoder positions that a slot holds."""
        return self._cross_lengths[slot]

    def window(self, slot: int) -> Tensor:
        """Return the keys and values of one window: [l 2 1 h c d]."""
        return self.cross[:, :, slot : slot + 1, :, : self._cross_lengths[slot]]

    def _check(self, group: RowGroup, positions: list[int], n_query: int) -> None:
        last = max(positions) + n_query
        inside = (
            group.row + group.n_rows <= self.rows
            and group.slot + group.n_windows <= self.windows
            and last <= self.n_text_ctx
        )
        if not inside or len(positions) != group.n_rows:
            raise ValueError(
                f"{group} with {len(positions)} positions to {last}: there are {self.rows} rows, "
                f"{self.windows} windows, {self.n_text_ctx} positions"
            )

    def _cross_view(self, slots: slice) -> tuple[Tensor, Tensor | None]:
        lengths = self._cross_lengths[slots]
        longest = -(-max(lengths) // KEY_MULTIPLE) * KEY_MULTIPLE
        n_key = min(longest, self.n_audio_ctx)
        cross_kv = self.cross[:, :, slots, :, :n_key]
        if min(lengths) == n_key:
            return cross_kv, None
        return cross_kv, _cross_bias(to_device(lengths, self.device), n_key)


def cache_bytes(
    config: WhisperConfig,
    windows: int,
    rows: int,
    *,
    dtype: torch.dtype = torch.float32,
    cross_dtype: torch.dtype | None = None,
) -> int:
    """Return the bytes that a `KVCache` of these arguments takes."""
    cross, self_ = _shapes(config, windows, rows)
    return math.prod(cross) * (cross_dtype or dtype).itemsize + math.prod(self_) * dtype.itemsize


def _shapes(config: WhisperConfig, windows: int, rows: int) -> tuple[list[int], list[int]]:
    """Return the shapes of the cross pool and of the self pool."""
    layers, n_head = config.n_text_layer, config.n_text_head
    d_head = config.d_model // n_head
    return (
        [layers, 2, windows, n_head, config.n_audio_ctx, d_head],
        [layers, 2, rows, n_head, config.n_text_ctx, d_head],
    )


def to_device(values: list[int], device: torch.device) -> Tensor:
    """Return i64[len(values)] on `device`, without waiting for the device."""
    if device.type == "cpu":
        return torch.tensor(values)
    return torch.tensor(values, pin_memory=True).to(device, non_blocking=True)


def _self_bias(positions: Tensor, n_key: int) -> Tensor:
    """Let each token see itself and what stands before it: i64[b q] -> f32[b 1 q k]."""
    keys = torch.arange(n_key, device=positions.device)
    return _bias(keys <= positions[..., None])[:, None]


def _cross_bias(lengths: Tensor, n_key: int) -> Tensor:
    """Let each window be seen as far as it goes: i64[n] -> f32[n 1 1 c]."""
    keys = torch.arange(n_key, device=lengths.device)
    return _bias(keys < lengths[:, None])[:, None, None]


def _bias(allowed: Tensor) -> Tensor:
    """True -> 0, False -> -inf, in float32."""
    return torch.zeros_like(allowed, dtype=torch.float32).masked_fill(~allowed, float("-inf"))
