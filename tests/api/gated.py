"""A server that stands still after each window's first token until its gate is opened."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from service.decoding.hypotheses import Candidates
from service.engine.types import Group, Sampled
from tests.api.live import DEADLINE_S, Limits, LiveServer, Parts, services_of
from tests.unit.transcription.scripted import ScriptedRunner


class GatedRunner(ScriptedRunner):
    """Says two tokens of each window, the second one only when the gate is open."""

    def __init__(self, gate: threading.Event, eot: int) -> None:
        super().__init__(lambda window, params: [5, 5, eot], rows=1)
        self._gate = gate

    def decode(self, groups: Sequence[Group]) -> list[Sampled | Candidates]:
        self._gate.wait(DEADLINE_S)
        return super().decode(groups)


@contextmanager
def gated_server(parts: Parts, limits: Limits) -> Iterator[tuple[LiveServer, threading.Event]]:
    """Yield a server with one row, and the gate, which is open at the end in any case."""
    gate = threading.Event()
    gated = replace(parts, runner=lambda metrics: GatedRunner(gate, parts.tokenizer.eot), rows=1)
    with LiveServer(services_of(gated, limits)) as live:
        try:
            yield live, gate
        finally:
            gate.set()
