"""Which rows and windows of a cache run, and where tokens stand. Knows nothing about memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Windows in neighbouring slots, each with `width` hypotheses in neighbouring rows.

    Attributes:
        row: the first row; there are `n_windows * width`.
        slot: the first slot; there are `n_windows`.
        n_windows, width: how many.
    """

    row: int
    slot: int
    n_windows: int
    width: int = 1

    @property
    def n_rows(self) -> int:
        """Rows of all its windows."""
        return self.n_windows * self.width


class Place(NamedTuple):
    """Where one token stands.

    Attributes:
        row, position: where its own keys and values are written; it sees those before it.
        slot, length: of its window, and how many keys of that there are.
    """

    row: int
    position: int
    slot: int
    length: int
