"""Servers that stand still at a chosen place until they may go on.

What a test looks at meanwhile cannot be over before it looks, however busy the machine is.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from service.decoding.hypotheses import Candidates
from service.engine.types import Group, Runner, Sampled, Start, WindowInput
from tests.api.live import DEADLINE_S, Limits, LiveServer, Parts, services_of
from tests.unit.transcription.scripted import ScriptedRunner

ENCODING = 0
FIRST_TOKEN = 1
LAST_TOKEN = 2


class GatedRunner(ScriptedRunner):
    """Says two tokens of each window, and goes on after `at` only when the gate is open."""

    def __init__(self, gate: threading.Event, eot: int, at: int) -> None:
        super().__init__(lambda window, params: [5, 5, eot], rows=1)
        self._gate = gate
        self._at = at
        self._n_tokens = 0

    def encode(self, windows: Sequence[tuple[int, WindowInput]]) -> None:
        self._n_tokens = 0
        self._wait()
        super().encode(windows)

    def prefill(self, starts: Sequence[Start]) -> list[Sampled | Candidates]:
        self._n_tokens = 1
        return super().prefill(starts)

    def decode(self, groups: Sequence[Group]) -> list[Sampled | Candidates]:
        self._wait()
        self._n_tokens += 1
        return super().decode(groups)

    def _wait(self) -> None:
        if self._n_tokens == self._at:
            self._gate.wait(DEADLINE_S)


class Hold:
    """Lets decoder steps pass, until it is told after how many to hold them.

    Attributes:
        is_holding: whether a step waits.
    """

    def __init__(self) -> None:
        self.is_holding = False
        self._changed = threading.Condition()
        self._left: int | None = None

    def after(self, n_steps: int) -> None:
        """Let so many more steps pass, and hold the others."""
        self._set(n_steps)

    def release(self) -> None:
        """Let all steps pass."""
        self._set(None)

    def step(self) -> None:
        """Wait here before a step."""
        with self._changed:
            self.is_holding = self._left == 0
            self._changed.wait_for(lambda: self._left != 0, DEADLINE_S)
            self.is_holding = False
            if self._left:
                self._left -= 1

    def _set(self, left: int | None) -> None:
        with self._changed:
            self._left = left
            self._changed.notify_all()


def held(parts: Parts, hold: Hold) -> Parts:
    """Return parts whose runner, whatever it is, asks before each decoder step."""

    def held_runner() -> Runner:
        runner = parts.runner()
        decode = runner.decode

        def wait_and_decode(groups: Sequence[Group]) -> list[Sampled | Candidates]:
            hold.step()
            return decode(groups)

        runner.decode = wait_and_decode  # type: ignore[method-assign]
        return runner

    return replace(parts, runner=held_runner)


@contextmanager
def held_server(parts: Parts, limits: Limits) -> Iterator[tuple[LiveServer, Hold]]:
    """Yield a server, and what holds its decoder steps; at the end they pass in any case."""
    hold = Hold()
    with LiveServer(services_of(held(parts, hold), limits)) as live:
        try:
            yield live, hold
        finally:
            hold.release()


@contextmanager
def gated_server(
    parts: Parts, limits: Limits, at: int = FIRST_TOKEN
) -> Iterator[tuple[LiveServer, threading.Event]]:
    """Yield a server with one row, and the gate, which is open at the end in any case."""
    gate = threading.Event()
    gated = replace(parts, runner=lambda: GatedRunner(gate, parts.tokenizer.eot, at), rows=1)
    with LiveServer(services_of(gated, limits)) as live:
        try:
            yield live, gate
        finally:
            gate.set()
