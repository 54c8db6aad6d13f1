"""Who runs next: which windows are encoded and which rows take the next decoder step.

A window needs a cross slot, and a sequence on it a decoder row. They are taken together or not at
all. Windows start in the order of arrival, but the more windows a request has had, the more that
came later go before its next one, so that a short recording does not wait behind long ones; how
many is bounded, so that a long one goes on all the same.

Row `r` reads slot `r`, and the running rows are always `[0, B)`: a
row that ends is filled from the last one, and a leased window that is not decoding waits in a slot
behind the running ones. The scheduler only gives orders (`Move`); the runner carries them out.

Knows nothing about torch, threads, clocks or requests.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

from service.decoding.params import SequenceParams
from service.engine.types import Finish, Move, MoveKind, Sampled, TokenStep, WindowInput
from service.errors import DecodingFailed, ServiceError

Outcome = Sampled | ServiceError
"""What a step brought one sequence."""


@dataclass(slots=True, eq=False)
class Window:
    """A leased window: it keeps its slot from its first sequence's start until it is closed.

    Attributes:
        id: the owner's name for it.
        input: its audio.
        rank: how many windows its request has had before it.
        turn: its place in the queue, the lowest first; from its first sequence on.
        slot: its cross slot, None while it waits.
        encoded: whether the slot holds its keys and values.
        sequence: the sequence on it that waits or runs, if any.
    """

    id: int
    input: WindowInput
    rank: int = 0
    turn: int | None = None
    slot: int | None = None
    encoded: bool = False
    sequence: Sequence | None = None


@dataclass(slots=True, eq=False)
class Sequence:
    """One window being decoded once.

    Attributes:
        id: the owner's name for it.
        window: what it decodes.
        params: how.
        row: its decoder row, None while it waits.
        n_sampled: tokens drawn so far.
    """

    id: int
    window: Window = field(repr=False)
    params: SequenceParams
    row: int | None = None
    n_sampled: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's work, in the order in which it is done.

    Attributes:
        moves: what the runner has to move first.
        starting: sequences that take their first step, on consecutive rows behind `running`; those
            whose window is not encoded yet have it encoded.
        running: the sequences of rows `[0, B)`, in order, that take one step each.
    """

    moves: tuple[Move, ...]
    starting: tuple[Sequence, ...]
    running: tuple[Sequence, ...]


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """What the scheduler shares out.

    Attributes:
        windows: cross slots.
        rows: decoder rows, at most `windows`.
        eot: the token that ends a sequence.
        n_text_ctx: decoder positions.
        encode_batch: windows started between two decoder steps at most, so that a burst of uploads
            does not stall the rows that run. (A fresh start means an encoder pass.)
        patience: windows that came later and may go before a window, at most.
    """

    windows: int
    rows: int
    eot: int
    n_text_ctx: int
    encode_batch: int = 1
    patience: int = 64

    def __post_init__(self) -> None:
        if not 1 <= self.rows <= self.windows:
            raise ValueError(f"rows={self.rows} must be in 1..windows={self.windows}")
        if self.encode_batch < 1:
            raise ValueError(f"encode_batch={self.encode_batch} must be positive")
        if self.patience < 0:
            raise ValueError(f"patience={self.patience} must be 0 or more")

    def gives_way(self, rank: int) -> int:
        """Return how many windows that come later may go before one of this rank.

        One round of the rows for each window that its request has had, up to `patience`. Every
        arrival that it lets pass is one less, so waiting counts, and it is never passed for ever.
        """
        return min(rank * self.rows, self.patience)


class Scheduler:
    """Shares slots and rows among windows and sequences."""

    def __init__(self, config: SchedulerConfig) -> None:
        self.config = config
        self.encode_batch = config.encode_batch
        self._slots: list[Window | None] = [None] * config.windows
        self._running: list[Sequence] = []
        self._waiting: list[Sequence] = []
        self._windows: dict[int, Window] = {}
        self._sequences: dict[int, Sequence] = {}
        self._moves: list[Move] = []
        self._turns = itertools.count()

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._running) or (bool(self._waiting) and self._can_admit(self._waiting[0]))

    @property
    def running(self) -> tuple[Sequence, ...]:
        """The sequences that hold rows, row by row."""
        return tuple(self._running)

    @property
    def waiting(self) -> tuple[Sequence, ...]:
        """The sequences that wait for a row, next first."""
        return tuple(self._waiting)

    @property
    def slots(self) -> tuple[Window | None, ...]:
        """The windows that hold slots, slot by slot."""
        return tuple(self._slots)

    def open(self, window_id: int, window_input: WindowInput, rank: int = 0) -> None:
        """Register a window. It takes nothing until a sequence is submitted on it.

        Args:
            window_id: the owner's name for it.
            window_input: its audio.
            rank: how many windows its request has had before it.
        """
        self._windows[window_id] = Window(window_id, window_input, rank)

    def submit(self, sequence_id: int, window_id: int, params: SequenceParams) -> None:
        """Queue a sequence on a window; one that is still on it is released first.

        Nothing happens if the window has been closed.

        Raises:
            DecodingFailed: if the prompt does not fit the decoder or nothing may be sampled.
        """
        window = self._windows.get(window_id)
        if window is None:
            return
        n_prompt, n_text_ctx = len(params.prompt), self.config.n_text_ctx
        if not 1 <= n_prompt <= n_text_ctx or not 0 <= params.sot_index < n_prompt:
            raise DecodingFailed(
                f"a prompt of {n_prompt} tokens with <|startoftranscript|> at {params.sot_index} "
                f"does not fit a decoder of {n_text_ctx} positions"
            )
        if params.max_tokens < 1:
            raise DecodingFailed(f"max_tokens={params.max_tokens} must be positive")
        if window.sequence is not None:
            self.release(window.sequence.id)
        if window.turn is None:
            window.turn = next(self._turns) + self.config.gives_way(window.rank)
        window.sequence = sequence = Sequence(sequence_id, window, params)
        self._sequences[sequence_id] = sequence
        bisect.insort(self._waiting, sequence, key=_place_in_queue)

    def release(self, sequence_id: int) -> None:
        """Take a sequence out, at whatever stage it is. Its window keeps its slot."""
        sequence = self._sequences.pop(sequence_id, None)
        if sequence is None:
            return
        sequence.window.sequence = None
        if sequence.row is None:
            self._waiting.remove(sequence)
        else:
            self._free_row(sequence.row)

    def close(self, window_id: int) -> None:
        """Give a window back, with its sequence and its slot."""
        window = self._windows.pop(window_id, None)
        if window is None:
            return
        if window.slot is not None:
            self._slots[window.slot] = None
            window.slot = None
        if window.sequence is not None:
            self.release(window.sequence.id)

    def schedule(self) -> Batch:
        """Return the next step's work: the next in the queue start, as far as there is room.

        A window that holds a slot stands before every window that waits for one: those that hold
        the slots can always go on, and the queue cannot lock itself up.
        """
        running = tuple(self._running)
        starting: list[Sequence] = []
        while self._waiting and len(starting) < self.encode_batch:
            if not self._can_admit(self._waiting[0]):
                break
            starting.append(self._waiting.pop(0))
            self._admit(starting[-1])
        moves, self._moves = tuple(self._moves), []
        return Batch(moves, tuple(starting), running)

    def update(self, outcomes: Mapping[int, Outcome]) -> list[tuple[int, TokenStep]]:
        """Note what a step brought each sequence, free what ended -> the steps to deliver."""
        steps = []
        ended: list[Sequence] = []
        for sequence_id, outcome in outcomes.items():
            sequence = self._sequences[sequence_id]
            step = self._step(sequence, outcome)
            steps.append((sequence_id, step))
            if step.finish is not None:
                ended.append(sequence)
        for sequence in sorted(ended, key=lambda ended: -(ended.row or 0)):
            self.release(sequence.id)
        return steps

    def _can_admit(self, sequence: Sequence) -> bool:
        """Whether there is a row, and a slot if its window has none yet."""
        if len(self._running) == self.config.rows:
            return False
        return sequence.window.slot is not None or None in self._slots

    def _admit(self, sequence: Sequence) -> None:
        """Give a sequence the next row, and its window the slot of the same number."""
        sequence.row = len(self._running)
        self._place(sequence.window, sequence.row)
        self._running.append(sequence)

    def _place(self, window: Window, slot: int) -> None:
        """Put a window into `slot`; whoever is there (a lease that waits) makes room."""
        other = self._slots[slot]
        if other is window:
            return
        if window.slot is not None:
            self._exchange(window.slot, slot)
            return
        if other is not None:
            free = self._slots.index(None)
            self._moves.append(Move(MoveKind.WINDOW, slot, free))
            self._slots[free], other.slot = other, free
        self._slots[slot], window.slot = window, slot

    def _exchange(self, first: int, second: int) -> None:
        """Let the windows of two slots change places; at least one slot is held."""
        a, b = self._slots[first], self._slots[second]
        if a is not None and b is not None:
            self._moves.append(Move(MoveKind.SWAP, first, second))
        elif a is not None:
            self._moves.append(Move(MoveKind.WINDOW, first, second))
        else:
            self._moves.append(Move(MoveKind.WINDOW, second, first))
        self._slots[first], self._slots[second] = b, a
        if a is not None:
            a.slot = second
        if b is not None:
            b.slot = first

    def _free_row(self, row: int) -> None:
        """Fill `row` from the last running one, whose window comes along."""
        self._running[row].row = None
        sequence, last = self._running.pop(), len(self._running)
        if row == last:
            return
        self._moves.append(Move(MoveKind.ROW, last, row))
        self._exchange(row, last)
        self._running[row], sequence.row = sequence, row

    def _step(self, sequence: Sequence, outcome: Outcome) -> TokenStep:
        """Turn an outcome into what the sequence's owner sees."""
        if isinstance(outcome, Sampled) and outcome.failed:
            outcome = DecodingFailed("the model's output for this window is not a number")
        if isinstance(outcome, ServiceError):
            return TokenStep(-1, float("nan"), finish=Finish.ERROR, error=outcome)
        sequence.n_sampled += 1
        n_tokens = len(sequence.params.prompt) + sequence.n_sampled
        finish = None
        if outcome.token_id == self.config.eot:
            finish = Finish.EOT
        elif sequence.n_sampled == sequence.params.max_tokens or n_tokens > self.config.n_text_ctx:
            finish = Finish.LENGTH
        return TokenStep(outcome.token_id, outcome.logprob, outcome.no_speech_prob, finish)


def _place_in_queue(sequence: Sequence) -> tuple[bool, int]:
    """Return what the queue is sorted by; it does not change while a sequence waits."""
    window = sequence.window
    return window.slot is None, window.turn or 0
