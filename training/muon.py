"""Muon: momentum whose update is made orthogonal, for the matrices inside a transformer.

After Keller Jordan (2024), with the scale of Liu et al. (arXiv:2502.16982), so that AdamW's rate
and weight decay can be shared. `torch.optim.Muon` always computes in bfloat16, which a processor
without instructions for it emulates, several times more slowly. Knows nothing about models.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch import distributed as dist

NEWTON_SCHULZ = (3.4445, -4.775, 2.0315)


def orthogonal(matrix: Tensor, dtype: torch.dtype = torch.float32, steps: int = 5) -> Tensor:
    """Return about U V^T of the singular value decomposition U S V^T, f32[m n] -> dtype[m n]."""
    a, b, c = NEWTON_SCHULZ
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    found: Tensor = (wide / (wide.norm() + 1e-7)).to(dtype)
    for _ in range(steps):
        gram = found @ found.T
        found = a * found + torch.addmm(gram, gram, gram, beta=b, alpha=c) @ found
    return found if wide is matrix else found.T


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, made orthogonal, with decoupled weight decay; for matrices only.

    Processes of a group share the work: each makes some of the updates orthogonal.
    """

    def __init__(
        self,
        matrices: Iterable[Tensor],
        lr: float,
        weight_decay: float,
        dtype: torch.dtype = torch.float32,
        momentum: float = 0.95,
    ) -> None:
        by_size = sorted(matrices, key=Tensor.numel)
        super().__init__(by_size, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self._dtype = dtype

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update the matrices, all of which have gradients."""
        ranks = dist.get_world_size() if dist.is_initialized() else 1
        rank = dist.get_rank() if ranks > 1 else 0
        for group in self.param_groups:
            matrices: list[Tensor] = group["params"]
            updates = [torch.zeros_like(matrix) for matrix in matrices]
            for index, matrix in enumerate(matrices):
                assert matrix.grad is not None
                mean = self.state[matrix].setdefault("mean", torch.zeros_like(matrix))
                mean.lerp_(matrix.grad, 1 - group["momentum"])
                if index % ranks == rank:
                    nesterov = matrix.grad.lerp(mean, group["momentum"])
                    updates[index] = orthogonal(nesterov, self._dtype).to(matrix.dtype)
            if ranks > 1:
                updates = summed(updates)
            for matrix, update in zip(matrices, updates, strict=True):
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                scale = 0.2 * math.sqrt(max(matrix.shape))
                matrix.add_(update, alpha=-group["lr"] * scale)


def summed(tensors: list[Tensor]) -> list[Tensor]:
    """Return the sums of every process's tensors, in one exchange."""
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]
