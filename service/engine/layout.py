"""Where sequences and windows lie, so that what runs together can be read together.

Sequences of one row stand at the bottom: the `n`-th on row `n`, its window in slot `n`. Those of
several rows stand at the top, from the last row and the last slot downwards, those of a kind side
by side. In between are leased windows on which nothing runs. A place that becomes free is filled,
so that each kind is one group of neighbours; whoever is moved takes its window along.

Gives orders (`Move`) and carries none out. Knows nothing about queues, torch or requests.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from service.engine.sequence import Sequence, Window
from service.engine.types import Move, MoveKind


class Layout:
    """Shares out rows and slots.

    Args:
        windows: cross slots.
        rows: decoder rows.
    """

    def __init__(self, windows: int, rows: int) -> None:
        self.slots: list[Window | None] = [None] * windows
        self._n_rows = rows
        self._single: list[Sequence] = []
        self._several: list[Sequence] = []
        self._moves: list[Move] = []

    @property
    def running(self) -> tuple[Sequence, ...]:
        """The sequences that hold rows, row by row."""
        return (*self._single, *reversed(self._several))

    @property
    def n_rows_used(self) -> int:
        """Rows that are held."""
        return len(self._single) + sum(sequence.n_rows for sequence in self._several)

    def has_room(self, sequence: Sequence) -> bool:
        """Whether there are rows, and a slot if its window has none yet."""
        if self.n_rows_used + sequence.n_rows > self._n_rows:
            return False
        return sequence.window.slot is not None or None in self.slots

    def take_moves(self) -> tuple[Move, ...]:
        """Return the orders since the last call."""
        moves, self._moves = tuple(self._moves), []
        return moves

    def admit(self, sequence: Sequence) -> None:
        """Give a sequence rows, and its window a slot beside others of its kind."""
        if sequence.n_rows == 1:
            sequence.row = len(self._single)
            self._place(sequence.window, sequence.row)
            self._single.append(sequence)
            return
        at = len(self._several)
        while at and self._several[at - 1].kind != sequence.kind:
            at -= 1
        self._several.insert(at or len(self._several), sequence)
        self._arrange(reversed(range(len(self._several))))

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence's rows away. Its window keeps its slot, though perhaps another one."""
        if sequence.n_rows == 1:
            self._remove_single(sequence)
        else:
            self._remove_several(sequence)
        sequence.row = None

    def free_slot(self, window: Window) -> None:
        """Take a window's slot away."""
        if window.slot is not None:
            self.slots[window.slot] = None
            window.slot = None

    def _remove_single(self, sequence: Sequence) -> None:
        """Fill the row from the last one, whose window comes along."""
        row = cast("int", sequence.row)
        mover, last = self._single.pop(), len(self._single)
        if row == last:
            return
        self._moves.append(Move(MoveKind.ROW, last, row))
        self._exchange(row, last)
        self._single[row], mover.row = mover, row

    def _remove_several(self, sequence: Sequence) -> None:
        """Fill the rows from the last of the kind, and close the gap that it leaves."""
        at = self._several.index(sequence)
        last = max(i for i, other in enumerate(self._several) if other.kind == sequence.kind)
        self._several[at] = self._several[last]
        del self._several[last]
        self._arrange(range(len(self._several)))

    def _arrange(self, order: Iterable[int]) -> None:
        """Move the sequences of several rows to where their places in the list are.

        Args:
            order: of the moves: from the first where a gap closes, from the last where one opens.
        """
        rows, row = [], self._n_rows
        for sequence in self._several:
            row -= sequence.n_rows
            rows.append(row)
        for at in order:
            sequence = self._several[at]
            if sequence.row is not None and sequence.row != rows[at]:
                move = Move(MoveKind.ROW, sequence.row, rows[at], sequence.n_rows)
                self._moves.append(move)
            sequence.row = rows[at]
            self._place(sequence.window, len(self.slots) - 1 - at)

    def _place(self, window: Window, slot: int) -> None:
        """Put a window into `slot`; whoever is there makes room."""
        other = self.slots[slot]
        if other is window:
            return
        if window.slot is not None:
            self._exchange(window.slot, slot)
            return
        if other is not None:
            free = self.slots.index(None)
            self._moves.append(Move(MoveKind.WINDOW, slot, free))
            self.slots[free], other.slot = other, free
        self.slots[slot], window.slot = window, slot

    def _exchange(self, first: int, second: int) -> None:
        """Let the windows of two slots change places; at least one slot is held."""
        a, b = self.slots[first], self.slots[second]
        if a is not None and b is not None:
            self._moves.append(Move(MoveKind.SWAP, first, second))
        elif a is not None:
            self._moves.append(Move(MoveKind.WINDOW, first, second))
        else:
            self._moves.append(Move(MoveKind.WINDOW, second, first))
        self.slots[first], self.slots[second] = b, a
        if a is not None:
            a.slot = second
        if b is not None:
            b.slot = first
