"""What heads of the cross-attention look at. Knows nothing about why somebody wants to know."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class WatchedHeads:
    """Collects what some heads of the cross-attention look at, before the softmax.

    Args:
        heads: (layer, head) pairs.

    Attributes:
        scores: one f32[n heads q c] a layer that has any, from the lowest layer on.
    """

    def __init__(self, heads: Sequence[tuple[int, int]]) -> None:
        self._heads: dict[int, list[int]] = {}
        for layer, head in sorted(heads):
            self._heads.setdefault(layer, []).append(head)
        self.scores: list[Tensor] = []

    def look(self, layer: int, query: Tensor, keys: Tensor) -> None:
        """Note the scores of a layer's heads: query [n h q d], keys [n h c d].

        In float32: a CPU keeps a kernel for each shape of a product in bfloat16, and texts and
        windows have many lengths.
        """
        heads = self._heads.get(layer)
        if heads is None:
            return
        watched = keys[:, heads].float()
        scaled = query[:, heads].float() * query.shape[-1] ** -0.5
        self.scores.append(torch.matmul(scaled, watched.transpose(-1, -2)))
