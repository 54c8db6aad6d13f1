"""The real engine, open to whoever wants to break it, and ways to break it."""

from __future__ import annotations

import queue
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from torch import Tensor, nn

from service.decoding.params import SequenceParams
from service.engine.core import EngineCore
from service.engine.engine import Engine, EngineConfig
from service.engine.hosts import ThreadHost
from service.engine.runner import ModelRunner, RunnerConfig
from service.engine.scheduler import Scheduler, SchedulerConfig
from service.metrics import Metrics
from tests.unit.engine.fakes import EOT, SPECIAL
from tests.unit.engine.models import lively_model, small_config

CONFIG = small_config(rounding=64)
CULPRIT = 180
"""The window that is struck is told by its mel frames."""
CULPRIT_ROUNDED = 192
STRUCK_AFTER = 7


class HeldInbox(queue.SimpleQueue[Any]):
    """Hands its first message over when all have been put: the engine takes them in one turn."""

    def __init__(self, submitted: threading.Event) -> None:
        self._submitted = submitted

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        message = super().get(block, timeout)
        self._submitted.wait(60)
        return message


class Target:
    """The real engine, open to whoever wants to break it."""

    def __init__(self, rows: int = 4) -> None:
        self.model = lively_model(CONFIG)
        config = RunnerConfig(windows=6, rows=rows, encode_batch=4, probe=False)
        self.runner = ModelRunner(self.model, SPECIAL, config)
        self.core = EngineCore(Scheduler(SchedulerConfig(6, rows, EOT, 448, 4)), self.runner)
        self.deaths: list[str] = []
        self.metrics = Metrics()
        self.together = 0
        self.submitted = threading.Event()
        self.broken = False

    @asynccontextmanager
    async def engine(self) -> AsyncIterator[Engine]:
        self.submitted.set()
        host = ThreadHost(self.core)
        host.inbox = HeldInbox(self.submitted)
        engine = Engine(
            host, config=EngineConfig(64), metrics=self.metrics, on_dead=self.deaths.append
        )
        engine.start()
        await engine.until_ready()
        self.broken = True
        try:
            yield engine
        finally:
            self.submitted.set()
            await engine.stop(0)

    def mean_batch(self) -> float:
        """How many rows a decoder step has had."""
        value = self.metrics.registry.get_sample_value
        steps = value("earshot_decoder_batch_size_count") or 1
        return (value("earshot_decoder_batch_size_sum") or 0) / steps

    def row_of_culprit(self, first: int, n_rows: int) -> int | None:
        """Where it is among rows `[first, first + n_rows)`, once it has had enough tokens."""
        self.together = max(self.together, n_rows)
        for sequence in self.core.scheduler.running[first : first + n_rows]:
            if sequence.window.input.content_frames == CULPRIT and self.broken:
                assert sequence.row is not None
                return sequence.row - first
        return None

    def n_sampled(self, first: int, at: int) -> int:
        return self.core.scheduler.running[first + at].n_sampled

    def in_steps(self, fault: Callable[[Tensor, int], None]) -> None:
        """Let `fault(logits, row)` happen in each of the culprit's steps from the seventh on."""
        decode = self.model.decode

        def faulty(tokens: Tensor, positions: list[int], cache: Any, groups: Any) -> Tensor:
            logits = decode(tokens, positions, cache, groups)
            first = groups[0].row
            at = self.row_of_culprit(first, len(positions))
            if at is not None and self.n_sampled(first, at) >= STRUCK_AFTER:
                fault(logits, at)
            return logits

        self.model.decode = faulty  # type: ignore[method-assign, assignment]

    def in_prompts(self, fault: Callable[[Tensor], None]) -> None:
        """Let `fault(logits)` happen when the culprit's prompt is decoded."""
        prefill = self.model.prefill

        def faulty(tokens: list[int], cache: Any, place: Any, **how: Any) -> Tensor:
            logits = prefill(tokens, cache, place, **how)
            if self.row_of_culprit(place.row, 1) is not None:
                fault(logits)
            return logits

        self.model.prefill = faulty  # type: ignore[method-assign]

    def in_encoder(self, fault: Callable[[Tensor], None]) -> None:
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            if self.broken:
                fault(args[0])

        self.model.encoder.register_forward_pre_hook(hook)


def fill(value: float) -> Callable[..., None]:
    def fault(logits: Tensor, row: int | None = None) -> None:
        logits[slice(None) if row is None else row] = value

    return fault


def raising(error: BaseException) -> Callable[..., None]:
    def fault(*_: object) -> None:
        raise error

    return fault


def rule_for_later_tokens(target: Target) -> None:
    sampler = target.runner.sampler
    filter_next = sampler.rules.filter_next

    def faulty(logits: Tensor, first: int, *, looks: bool = True) -> Tensor:
        filtered = filter_next(logits, first, looks=looks)
        at = target.row_of_culprit(first, len(logits))
        if at is not None and target.n_sampled(first, at) >= STRUCK_AFTER:
            raise KeyError("a rule that raises")
        return filtered

    sampler.rules.filter_next = faulty  # type: ignore[method-assign]


def rule_for_the_first_token(target: Target) -> None:
    rules = target.runner.sampler.rules
    filter_first = rules.filter_first

    def faulty(logits: Tensor, row: int, params: SequenceParams) -> Tensor:
        if target.row_of_culprit(row, 1) is not None:
            raise IndexError("a rule that raises")
        return filter_first(logits, row, params)

    rules.filter_first = faulty  # type: ignore[method-assign]


def only_the_culprits(error: Exception) -> Callable[[Tensor], None]:
    def fault(mel: Tensor) -> None:
        if mel.shape[-1] == CULPRIT_ROUNDED:
            raise error

    return fault
