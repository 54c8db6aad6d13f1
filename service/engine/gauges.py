"""What the engine thread counts and times. The one place in the engine with a clock for it.

Knows nothing about threads, torch or HTTP.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from service.engine.core import Turn
from service.engine.scheduler import Scheduler, SchedulerConfig
from service.engine.types import TokenStep
from service.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The engine thread's state, for others to read.

    Attributes:
        rows_used, slots_used, waiting: rows, slots, and windows that wait for theirs.
        steps: turns taken since the start.
        step_began_at: `time.monotonic()` of the turn that is running, None between turns.
    """

    rows_used: int = 0
    slots_used: int = 0
    waiting: int = 0
    steps: int = 0
    step_began_at: float | None = None


class EngineGauges:
    """Turns what the core did into metrics."""

    def __init__(self, metrics: Metrics, config: SchedulerConfig) -> None:
        self.metrics = metrics
        metrics.window_slots_total.set(config.windows)
        metrics.decoder_rows_total.set(config.rows)
        self._snapshot = Snapshot()
        self._queued: dict[int, float] = {}
        self._last_token_at: dict[int, float] = {}

    def opened(self, window_id: int, queued_at: float | None) -> None:
        """Note a window, and since when its request waits if it is its first one."""
        if queued_at is not None:
            self._queued[window_id] = queued_at

    def closed(self, window_id: int) -> None:
        """Forget a window."""
        self._queued.pop(window_id, None)

    def publish(self, scheduler: Scheduler) -> Snapshot:
        """Note what is in use between two turns."""
        self._snapshot = Snapshot(
            rows_used=scheduler.n_rows_used,
            slots_used=sum(window is not None for window in scheduler.slots),
            waiting=len(scheduler.waiting),
            steps=self._snapshot.steps,
        )
        self.metrics.decoder_rows_used.set(self._snapshot.rows_used)
        self.metrics.window_slots_used.set(self._snapshot.slots_used)
        return self._snapshot

    def step_begins(self) -> Snapshot:
        """Note that a turn begins."""
        self._snapshot = replace(
            self._snapshot, steps=self._snapshot.steps + 1, step_began_at=time.monotonic()
        )
        return self._snapshot

    def step_ends(self, turn: Turn) -> None:
        """Count what a turn did."""
        now, metrics = time.monotonic(), self.metrics
        for window_id in turn.encoded:
            queued_at = self._queued.pop(window_id, None)
            if queued_at is not None:
                metrics.queue.observe((self._snapshot.step_began_at or now) - queued_at)
        metrics.tokens.labels("prompt").inc(sum(n_prompt for _, n_prompt in turn.started))
        tokens = [(i, s) for i, s in turn.steps if isinstance(s, TokenStep)]
        metrics.tokens.labels("generated").inc(sum(step.error is None for _, step in tokens))
        before, self._last_token_at = self._last_token_at, {}
        for sequence_id, step in tokens:
            if sequence_id in before:
                metrics.inter_token.observe(now - before[sequence_id])
            if step.finish is None:
                self._last_token_at[sequence_id] = now
