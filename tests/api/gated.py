"""A server that stands still at a chosen place of each window until its gate is opened."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from service.decoding.hypotheses import Candidates
from service.engine.types import Group, Sampled, Start, WindowInput
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


@contextmanager
def gated_server(
    parts: Parts, limits: Limits, at: int = FIRST_TOKEN
) -> Iterator[tuple[LiveServer, threading.Event]]:
    """Yield a server with one row, and the gate, which is open at the end in any case."""
    gate = threading.Event()
    gated = replace(
        parts, runner=lambda metrics: GatedRunner(gate, parts.tokenizer.eot, at), rows=1
    )
    with LiveServer(services_of(gated, limits)) as live:
        try:
            yield live, gate
        finally:
            gate.set()
