"""The program of an engine's process over a fake runner, for tests of what is around it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence

from service import engine_process
from service.decoding.hypotheses import Candidates
from service.engine.core import EngineCore
from service.engine.types import Group, Sampled
from service.errors import CheckpointError
from service.settings import Settings
from tests.unit.engine.fakes import FakeRunner, scheduler

DETAILS = "what there is to know"
STUCK = 13
"""Decoding the window of so many frames does not come to an end."""
LOST = 14
"""Decoding that of so many finds the device lost."""


class Runner(FakeRunner):
    """Stands still, or loses its device, at windows of certain names."""

    def decode(self, groups: Sequence[Group]) -> list[Sampled | Candidates]:
        names = {self.cells[group.row][0] for group in groups}
        if STUCK in names:
            time.sleep(600)
        self.lost = LOST in names
        return super().decode(groups)


def load(settings: Settings, source: str) -> tuple[EngineCore, object]:
    """Load, or fail in the way that `source` says."""
    if source == "unfit":
        raise CheckpointError("model.safetensors: tensor missing")
    if source == "broken":
        raise KeyError("nobody thought of this")
    if source == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    return EngineCore(scheduler(3, 2), Runner(3, 2)), DETAILS


if __name__ == "__main__":
    engine_process.main(load)
