"""In which numbers of rows a product is computed.

For each number of rows oneDNN makes a kernel, and keeps it. So products are computed in blocks of a
few numbers of rows, or memory would grow with every length that requests bring. Knows nothing about
products.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import pad

_BLOCKS = (1024, 512, 256, 128, 64, 32)
"""Numbers of rows that more than the last of them are computed in."""
_SPARED = 8
"""One block is taken instead of several smaller ones if it is larger by this share at most."""
_PER_OCTAVE = 2
"""Numbers of rows under that between one power of two and the next."""


def blocks(n_rows: int, kept: int = 0) -> list[int]:
    """Return in which numbers of rows a product of so many is computed, one after another.

    Where these are a multiple of a power of two, 4 for one and up to 32, each block is one too,
    which is what keeps the bits of a row (docs/adr/0001). The blocks depend on nothing but the
    number of rows.

    Args:
        n_rows: one at least.
        kept: a number that comes often; its multiples stay whole.
    """
    if kept and n_rows % kept == 0:
        return [n_rows]
    found = []
    for size in _BLOCKS:
        found += [size] * (n_rows // size)
        n_rows %= size
        if n_rows and size - n_rows <= size // _SPARED:
            return [*found, size]
    if n_rows:
        step = max(1, (1 << n_rows.bit_length() - 1) // _PER_OCTAVE)
        found.append(-(-n_rows // step) * step)
    return found


@lru_cache(maxsize=1024)
def _is_one_block(n_rows: int, kept: int) -> bool:
    """Whether so many rows are computed as they are. A step asks it for each of its products."""
    return blocks(n_rows, kept) == [n_rows]


def in_blocks(product: Callable[[Tensor], Tensor], x: Tensor, kept: int = 0) -> Tensor:
    """Apply a product to [... n_in] -> [... n_out], with zeros for the rows that are too many."""
    if x.dim() == 2 and _is_one_block(x.shape[0], kept):
        return product(x)
    rows = x.flatten(0, -2)
    n_rows = rows.shape[0]
    sizes = blocks(n_rows, kept)
    if sizes == [n_rows]:
        return torch.unflatten(product(rows), 0, x.shape[:-1])
    rows = pad(rows, (0, 0, 0, sum(sizes) - n_rows))
    parts = [product(block) for block in torch.split(rows, sizes)]
    out = parts[0] if len(parts) == 1 else torch.cat(parts)
    return torch.unflatten(out[:n_rows], 0, x.shape[:-1])
