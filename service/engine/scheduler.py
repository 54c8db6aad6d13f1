"""Who runs next: which windows are encoded and which rows take the next decoder step.

A window needs a cross slot, and a sequence on it as many decoder rows as it has hypotheses. They
are taken together or not at all. Windows start in the order of arrival, but the more windows a
request has had, the more that came later go before its next one, so that a short recording does
not wait behind long ones; how many is bounded, so that a long one goes on all the same.

Knows nothing about torch, threads, clocks or requests, and of places only whether there is room
(`layout.py`).
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from service.decoding.params import AlignParams, DetectParams, SequenceParams
from service.engine.layout import Layout
from service.engine.sequence import Outcome, Sequence, Window
from service.engine.types import ALIGN_BATCH, Move, Step, Task, WindowInput
from service.errors import DecodingFailed


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's work, in the order in which it is done.

    Attributes:
        moves: what the runner has to move first.
        starting: sequences that take their first step; those whose window is not encoded yet have
            it encoded.
        running: the sequences that take a further step each, by rising row.
    """

    moves: tuple[Move, ...]
    starting: tuple[Sequence, ...]
    running: tuple[Sequence, ...]


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """What the scheduler shares out.

    Attributes:
        windows: cross slots.
        rows: decoder rows; each hypothesis of a window takes one.
        eot: the token that ends a sequence.
        n_text_ctx: decoder positions.
        encode_batch: windows started between two decoder steps at most, so that a burst of uploads
            does not stall the rows that run. (A fresh start means an encoder pass.)
        align_batch: texts that are aligned in one pass; together they count as one window.
        patience: windows that came later and may go before a window, at most.
    """

    windows: int
    rows: int
    eot: int
    n_text_ctx: int
    encode_batch: int = 1
    patience: int = 64
    align_batch: int = ALIGN_BATCH

    def __post_init__(self) -> None:
        if self.windows < 1 or self.rows < 1:
            raise ValueError(f"rows={self.rows} and windows={self.windows} must be positive")
        if self.encode_batch < 1 or self.align_batch < 1:
            raise ValueError(
                f"encode_batch={self.encode_batch} and align_batch={self.align_batch} must be "
                "positive"
            )
        if self.patience < 0:
            raise ValueError(f"patience={self.patience} must be 0 or more")

    def gives_way(self, rank: int) -> int:
        """Return how many windows that come later may go before one of this rank.

        One round of those that decode at once for each window that its request has had, up to
        `patience`. Every
        arrival that it lets pass is one less, so waiting counts, and it is never passed for ever.
        """
        return min(rank * self.at_once, self.patience)

    def fair_share(self, n_requests: int, width: int) -> int:
        """Return how many windows of `width` hypotheses each of so many requests may have.

        One request more than there are, so that the next one finds its share free; one window at
        least.
        """
        return max(1, min(self.windows, self.rows // width) // (n_requests + 1))

    @property
    def at_once(self) -> int:
        """Windows that decode at the same time, at most."""
        return min(self.rows, self.windows)


class Scheduler:
    """Shares slots and rows among windows and sequences."""

    def __init__(self, config: SchedulerConfig) -> None:
        self.config = config
        self.encode_batch = config.encode_batch
        self._layout = Layout(config.windows, config.rows)
        self._waiting: list[Sequence] = []
        self._windows: dict[int, Window] = {}
        self._sequences: dict[int, Sequence] = {}
        self._turns = itertools.count()

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        if self._layout.running:
            return True
        return bool(self._waiting) and self._layout.has_room(self._waiting[0])

    @property
    def running(self) -> tuple[Sequence, ...]:
        """The sequences that hold rows, row by row."""
        return self._layout.running

    @property
    def n_rows_used(self) -> int:
        """Rows that are held."""
        return self._layout.n_rows_used

    @property
    def waiting(self) -> tuple[Sequence, ...]:
        """The sequences that wait for a row, next first."""
        return tuple(self._waiting)

    @property
    def slots(self) -> tuple[Window | None, ...]:
        """The windows that hold slots, slot by slot."""
        return tuple(self._layout.slots)

    def open(self, window_id: int, window_input: WindowInput, rank: int = 0) -> None:
        """Register a window. It takes nothing until a sequence is submitted on it.

        Args:
            window_id: the owner's name for it.
            window_input: its audio.
            rank: how many windows its request has had before it.
        """
        self._windows[window_id] = Window(window_id, window_input, rank)

    def submit(self, sequence_id: int, window_id: int, task: Task) -> None:
        """Queue a sequence on a window; one that is still on it is released first.

        Nothing happens if the window has been closed.

        Raises:
            DecodingFailed: if the prompt does not fit the decoder or nothing may be sampled.
        """
        window = self._windows.get(window_id)
        if window is None:
            return
        self._check(task)
        if window.sequence is not None:
            self.release(window.sequence.id)
        if window.turn is None:
            window.turn = next(self._turns) + self.config.gives_way(window.rank)
        window.sequence = sequence = Sequence(sequence_id, window, task)
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
            self._layout.remove(sequence)

    def close(self, window_id: int) -> None:
        """Give a window back, with its sequence and its slot."""
        window = self._windows.pop(window_id, None)
        if window is None:
            return
        self._layout.free_slot(window)
        if window.sequence is not None:
            self.release(window.sequence.id)

    def schedule(self) -> Batch:
        """Return the next step's work: the next in the queue start, as far as there is room.

        A window that holds a slot stands before every window that waits for one: those that hold
        the slots can always go on, and the queue cannot lock itself up. Alignments that stand next
        to one another start together.
        """
        running = self._layout.running
        starting: list[Sequence] = []
        n_passes = n_aligned = 0
        while self._waiting and self._layout.has_room(self._waiting[0]):
            aligns = self._waiting[0].only_aligns
            if not (aligns and 0 < n_aligned < self.config.align_batch):
                if n_passes == self.encode_batch:
                    break
                n_passes, n_aligned = n_passes + 1, 0
            n_aligned += aligns
            starting.append(self._waiting.pop(0))
            self._layout.admit(starting[-1])
        return Batch(self._layout.take_moves(), tuple(starting), running)

    def update(self, outcomes: Mapping[int, Outcome]) -> list[tuple[int, Step]]:
        """Note what a step brought each sequence, free what ended -> the steps to deliver."""
        steps: list[tuple[int, Step]] = []
        ended: list[Sequence] = []
        for sequence_id, outcome in outcomes.items():
            sequence = self._sequences[sequence_id]
            seen = sequence.take(outcome, self.config.eot, self.config.n_text_ctx)
            steps += [(sequence_id, step) for step in seen]
            if seen and seen[-1].finish is not None:
                ended.append(sequence)
        for sequence in sorted(ended, key=lambda ended: -(ended.row or 0)):
            self.release(sequence.id)
        return steps

    def _check(self, task: Task) -> None:
        """Refuse what can never run.

        Raises:
            DecodingFailed: says what does not fit.
        """
        if isinstance(task, DetectParams):
            return
        n_prompt, n_text_ctx = len(task.prompt), self.config.n_text_ctx
        if isinstance(task, AlignParams):
            n_tokens = n_prompt + len(task.tokens) + 1
            if not (task.prompt and task.tokens and n_tokens <= n_text_ctx):
                raise DecodingFailed(
                    f"{len(task.tokens)} tokens after a prompt of {n_prompt} cannot be aligned by "
                    f"a decoder of {n_text_ctx} positions"
                )
            return
        self._check_decoding(task)

    def _check_decoding(self, params: SequenceParams) -> None:
        n_prompt, n_text_ctx = len(params.prompt), self.config.n_text_ctx
        if not 1 <= n_prompt <= n_text_ctx or not 0 <= params.sot_index < n_prompt:
            raise DecodingFailed(
                f"a prompt of {n_prompt} tokens with <|startoftranscript|> at {params.sot_index} "
                f"does not fit a decoder of {n_text_ctx} positions"
            )
        if params.max_tokens < 1:
            raise DecodingFailed(f"max_tokens={params.max_tokens} must be positive")
        if params.n_rows > self.config.rows:
            raise DecodingFailed(
                f"{params.n_rows} hypotheses at once, there are {self.config.rows} decoder rows"
            )


def _place_in_queue(sequence: Sequence) -> tuple[bool, int]:
    """Return what the queue is sorted by; it does not change while a sequence waits."""
    window = sequence.window
    return window.slot is None, window.turn or 0
