"""What the engine did, in metrics. Knows nothing about threads, processes, torch or HTTP."""

from __future__ import annotations

from service.engine.messages import Turned, Usage
from service.engine.scheduler import SchedulerConfig
from service.engine.types import TokenStep
from service.metrics import Metrics


class EngineGauges:
    """Counts and times what it is told of.

    Args:
        metrics: where.
        config: what there is to use.

    Attributes:
        usage: what is in use, as far as is known.
        steps: turns taken since the start.
    """

    def __init__(self, metrics: Metrics, config: SchedulerConfig) -> None:
        self.usage = Usage()
        self.steps = 0
        self._metrics = metrics
        metrics.window_slots_total.set(config.windows)
        metrics.decoder_rows_total.set(config.rows)
        self._queued: dict[int, float] = {}
        self._last_token_at: dict[int, float] = {}

    def opened(self, window_id: int, queued_at: float) -> None:
        """Note a request's first window, and since when it waits (`time.monotonic()`)."""
        self._queued[window_id] = queued_at

    def closed(self, window_id: int) -> None:
        """Forget a window."""
        self._queued.pop(window_id, None)

    def use(self, usage: Usage) -> None:
        """Note what is in use."""
        self.usage = usage
        self._metrics.decoder_rows_used.set(usage.rows_used)
        self._metrics.window_slots_used.set(usage.slots_used)

    def count(self, event: Turned) -> None:
        """Count what a turn did."""
        self.steps += 1
        self.use(event.usage)
        turn, metrics = event.turn, self._metrics
        for window_id in turn.encoded:
            queued_at = self._queued.pop(window_id, None)
            if queued_at is not None:
                metrics.queue.observe(event.began_at - queued_at)
        for n_windows in turn.forwards.encoded:
            metrics.encoder_batches.inc()
            metrics.encoder_windows.inc(n_windows)
            metrics.encoder_batch_size.observe(n_windows)
        for n_rows in turn.forwards.decoded:
            metrics.decoder_steps.inc()
            metrics.decoder_batch_size.observe(n_rows)
        metrics.tokens.labels("prompt").inc(sum(n_prompt for _, n_prompt in turn.started))
        tokens = [(i, s) for i, s in turn.steps if isinstance(s, TokenStep)]
        metrics.tokens.labels("generated").inc(sum(step.error is None for _, step in tokens))
        before, self._last_token_at = self._last_token_at, {}
        for sequence_id, step in tokens:
            if sequence_id in before:
                metrics.inter_token.observe(event.ended_at - before[sequence_id])
            if step.finish is None:
                self._last_token_at[sequence_id] = event.ended_at
