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
from typing import TypeVar

from service.engine.scheduler import Outcome, Scheduler, Sequence
from service.engine.types import Runner, RunnerDead, Sampled, Start, TokenStep
from service.errors import DecodingFailed, ServiceError

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


@dataclass(slots=True)
class Turn:
    """What one step did.

    Attributes:
        steps: (sequence id, what its owner sees), one for every sequence of the step.
        encoded: ids of the windows that were encoded.
        started: (sequence id, prompt tokens) of those whose prompt was decoded.
        n_running: rows that took a decoder step.
    """

    steps: list[tuple[int, TokenStep]] = field(default_factory=list)
    encoded: list[int] = field(default_factory=list)
    started: list[tuple[int, int]] = field(default_factory=list)
    n_running: int = 0


class EngineCore:
    """Drives a runner by a scheduler's orders."""

    def __init__(self, scheduler: Scheduler, runner: Runner) -> None:
        self.scheduler = scheduler
        self.runner = runner

    def warm_up(self) -> None:
        """Run real inference once, which also settles the encoder's batch."""
        self.runner.warm_up()
        self.scheduler.encode_batch = self.runner.encode_batch

    def step(self) -> list[tuple[int, TokenStep]]:
        """Take one turn -> (sequence id, its step) for every sequence that took part.

        Raises:
            RunnerDead: if the device is lost.
        """
        return self.turn().steps

    def turn(self) -> Turn:
        """Take one turn, as `step` does, and tell more of it."""
        batch = self.scheduler.schedule()
        self.runner.move(batch.moves)
        turn = Turn(n_running=len(batch.running))
        outcomes = self._start(batch.starting, turn)
        outcomes.update(_apart(batch.running, self._decode))
        turn.steps = self.scheduler.update(outcomes)
        return turn

    def _start(self, starting: Many[Sequence], turn: Turn) -> dict[int, Outcome]:
        """Encode what is not encoded yet and draw first tokens."""
        fresh = [sequence for sequence in starting if not sequence.window.encoded]
        encoded = _apart(fresh, self._encode)
        outcomes: dict[int, Outcome] = {
            sequence_id: error for sequence_id, error in encoded.items() if error is not None
        }
        for sequence in fresh:
            sequence.window.encoded = sequence.id not in outcomes
        turn.encoded = [s.window.id for s in fresh if s.window.encoded]
        if self.runner.encode_batch < self.scheduler.encode_batch:  # it did not fit
            self.scheduler.encode_batch = self.runner.encode_batch
        ready = [sequence for sequence in starting if sequence.id not in outcomes]
        turn.started = [(s.id, len(s.params.prompt)) for s in ready]
        for run in _consecutive(ready):
            outcomes.update(_apart(run, self._prefill))
        return outcomes

    def _encode(self, sequences: Many[Sequence]) -> list[None]:
        self.runner.encode([(s.row, s.window.input) for s in sequences if s.row is not None])
        return [None] * len(sequences)

    def _prefill(self, sequences: Many[Sequence]) -> list[Sampled]:
        return self.runner.prefill([Start(s.row, s.params) for s in sequences if s.row is not None])

    def _decode(self, sequences: Many[Sequence]) -> list[Sampled]:
        return self.runner.decode(sequences[0].row or 0, len(sequences))


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


def _consecutive(sequences: Many[Sequence]) -> list[list[Sequence]]:
    """Split sequences into runs whose rows follow one another."""
    runs: list[list[Sequence]] = []
    for sequence in sequences:
        if runs and sequence.row == (runs[-1][-1].row or 0) + 1:
            runs[-1].append(sequence)
        else:
            runs.append([sequence])
    return runs
