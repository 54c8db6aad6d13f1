"""A decode step over any groups of rows, in shapes as they come.

Knows nothing about requests, or about what was drawn before.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from service.decoding.sampling import Draw, Sampler
from service.engine.types import Group
from service.model import KVCache, RowGroup, WhisperModel


class EagerStep:
    """One step of groups of any width, of greedy rows, rows that sample, and beams.

    Args:
        model: on its device.
        cache: read and written.
        sampler: with the state of all rows.
        last: i64[rows], the token that each row decodes next.
    """

    def __init__(self, model: WhisperModel, cache: KVCache, sampler: Sampler, last: Tensor) -> None:
        self._model = model
        self._cache = cache
        self._sampler = sampler
        self._last = last

    def draw(self, groups: Sequence[Group], positions: Sequence[int]) -> list[Draw]:
        """Decode one token on each row of groups, and draw the next ones; `positions` of all rows.

        Changes nothing but the keys at those positions, which the same step would write again.
        """
        if not groups:
            return []
        logits = self._model.decode(
            torch.cat([self._last[group.rows] for group in groups]),
            [at for group in groups for at in positions[group.rows]],
            self._cache,
            [RowGroup(g.row, g.slot, g.n_windows, g.width) for g in groups],
        )
        parts = torch.split(logits, [group.n_rows for group in groups])
        return [
            self._sampler.draw_next(own, group.row, group.width if group.is_beam else None)
            for group, own in zip(groups, parts, strict=True)
        ]
