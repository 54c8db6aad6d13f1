"""One turn of the engine: schedule, run, update. Deterministic, given the runner.

A step that raises is taken apart until the sequence at fault stands alone: that one ends with an
error and the others go on. Only a lost device (`RunnerDead`) gets out.

Knows nothing about torch, threads, clocks or requests.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from typing import TypeVar, cast

from service.decoding.params import AlignParams, DetectParams, SequenceParams
from service.engine.scheduler import Scheduler
from service.engine.sequence import Outcome, Sequence
from service.engine.types import AlignStart, Forwards, Group, Runner, RunnerDead, Start, Step
from service.errors import DecodingFailed, ServiceError

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
_Run = Callable[[Many[Sequence]], Many[Outcome]]


@dataclass(slots=True)
class Turn:
    """What one step did.

    Attributes:
        steps: (sequence id, what its owner sees), in the order in which it happened.
        began: ids of the sequences that took their first step.
        encoded: ids of the windows that were encoded.
        started: (sequence id, prompt tokens) of those whose prompt was decoded.
        n_running: rows that took a decoder step.
        forwards: of the model.
    """

    steps: list[tuple[int, Step]] = field(default_factory=list)
    began: list[int] = field(default_factory=list)
    encoded: list[int] = field(default_factory=list)
    started: list[tuple[int, int]] = field(default_factory=list)
    n_running: int = 0
    forwards: Forwards = field(default_factory=Forwards)


class EngineCore:
    """Drives a runner by a scheduler's orders."""

    def __init__(self, scheduler: Scheduler, runner: Runner) -> None:
        self.scheduler = scheduler
        self.runner = runner

    def warm_up(self) -> None:
        """Run real inference once, which also settles the encoder's batch."""
        self.runner.warm_up()
        self.runner.take_forwards()  # which nobody asked for
        self.scheduler.encode_batch = self.runner.encode_batch

    def step(self) -> list[tuple[int, Step]]:
        """Take one turn -> (sequence id, what its owner sees of it).

        Raises:
            RunnerDead: if the device is lost.
        """
        return self.turn().steps

    def turn(self) -> Turn:
        """Take one turn, as `step` does, and tell more of it.

        Rows that run decode before first tokens are drawn, because a GPU may encode beside that.
        """
        batch = self.scheduler.schedule()
        self.runner.move(batch.moves)
        turn = Turn(n_running=sum(sequence.n_rows for sequence in batch.running))
        outcomes = self._encode_fresh(batch.starting, turn)
        running = _apart(batch.running, self._decode)
        ready = [sequence for sequence in batch.starting if sequence.id not in outcomes]
        outcomes.update(self._start(ready, turn))
        outcomes.update(running)
        turn.steps = self.scheduler.update(outcomes)
        turn.forwards = self.runner.take_forwards()
        return turn

    def _encode_fresh(self, starting: Many[Sequence], turn: Turn) -> dict[int, Outcome]:
        """Encode what is not encoded yet -> the errors of those that could not be."""
        fresh = [sequence for sequence in starting if not sequence.window.encoded]
        encoded = _apart(fresh, self._encode)
        outcomes: dict[int, Outcome] = {
            sequence_id: error for sequence_id, error in encoded.items() if error is not None
        }
        done = [s.window for s in fresh if s.id not in outcomes]
        for window in done:
            window.encoded = True
            window.input = window.input.without_samples()  # 64 kB a second
        turn.encoded = [window.id for window in done]
        if self.runner.encode_batch < self.scheduler.encode_batch:  # it did not fit
            self.scheduler.encode_batch = self.runner.encode_batch
        turn.began = [sequence.id for sequence in starting]
        return outcomes

    def _start(self, ready: Many[Sequence], turn: Turn) -> dict[int, Outcome]:
        """Take the first step of what is encoded."""
        outcomes: dict[int, Outcome] = {}
        for run, sequences in self._by_task(ready):
            outcomes.update(_apart(sequences, run))
        turn.started = [
            (s.id, len(s.task.prompt)) for s in ready if isinstance(s.task, SequenceParams)
        ]
        return outcomes

    def _by_task(self, ready: Many[Sequence]) -> list[tuple[_Run, list[Sequence]]]:
        """Sort sequences by how they are run."""
        runs: tuple[tuple[type, _Run], ...] = (
            (SequenceParams, self._prefill), (DetectParams, self._detect),
            (AlignParams, self._align),
        )  # fmt: skip
        return [(run, [s for s in ready if isinstance(s.task, task)]) for task, run in runs]

    def _encode(self, sequences: Many[Sequence]) -> list[None]:
        self.runner.encode([(_slot(s), s.window.input) for s in sequences])
        return [None] * len(sequences)

    def _prefill(self, sequences: Many[Sequence]) -> Many[Outcome]:
        return self.runner.prefill(
            [
                Start(_row(s), _slot(s), s.task)
                for s in sequences
                if isinstance(s.task, SequenceParams)
            ]
        )

    def _detect(self, sequences: Many[Sequence]) -> Many[Outcome]:
        return self.runner.detect([(_row(s), _slot(s)) for s in sequences])

    def _align(self, sequences: Many[Sequence]) -> Many[Outcome]:
        return self.runner.align(
            [
                AlignStart(_row(s), _slot(s), s.task)
                for s in sequences
                if isinstance(s.task, AlignParams)
            ]
        )

    def _decode(self, sequences: Many[Sequence]) -> Many[Outcome]:
        return self.runner.decode(groups(sequences))


def groups(sequences: Many[Sequence]) -> list[Group]:
    """Return sequences, by rising row, as groups of neighbours of one kind."""
    runs: list[list[Sequence]] = []
    for sequence in sequences:
        if runs and _are_neighbours(runs[-1][-1], sequence):
            runs[-1].append(sequence)
        else:
            runs.append([sequence])
    return [Group(_row(run[0]), _slot(run[0]), len(run), *run[0].kind) for run in runs]


def _are_neighbours(one: Sequence, other: Sequence) -> bool:
    """Whether two sequences of one kind stand side by side, and their windows too."""
    if one.kind != other.kind:
        return False
    return _row(one) + one.n_rows == other.row and _slot(one) + 1 == other.window.slot


def _row(sequence: Sequence) -> int:
    """Return the first row of a sequence that holds rows."""
    return cast("int", sequence.row)


def _slot(sequence: Sequence) -> int:
    """Return the slot of a sequence that holds rows."""
    return cast("int", sequence.window.slot)


def _apart(
    sequences: Many[Sequence], run: Callable[[Many[Sequence]], Many[Result]]
) -> Mapping[int, Result | ServiceError]:
    """Run sequences together, or in ever smaller parts until who raises stands alone."""
    if not sequences:
        return {}
    try:
        return dict(zip((s.id for s in sequences), run(sequences), strict=True))
    except RunnerDead:
        raise
    except Exception as error:  # the boundary that keeps one sequence's failure its own
        if len(sequences) == 1:
            logger.exception("sequence %d failed", sequences[0].id)
            return {sequences[0].id: _named(error)}
    middle = len(sequences) // 2
    return {**_apart(sequences[:middle], run), **_apart(sequences[middle:], run)}


def _named(error: Exception) -> ServiceError:
    """Return the error that the sequence's owner sees."""
    if isinstance(error, ServiceError):
        return error
    return DecodingFailed(f"this window could not be decoded ({type(error).__name__})")
