"""The engine's process that stands still for as long as a file exists.

What a test looks at meanwhile cannot be over before it looks, however busy the machine is.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from service import engine_process
from service.decoding.hypotheses import Candidates
from service.engine.runner import ModelRunner
from service.engine.types import Group, Sampled
from tests.process.held import VARIABLE

_PAUSE_S = 0.01
_decode = ModelRunner.decode


def _wait() -> None:
    while Path(os.environ[VARIABLE]).exists():
        time.sleep(_PAUSE_S)


def _decode_when_it_may(self: ModelRunner, groups: Sequence[Group]) -> list[Sampled | Candidates]:
    _wait()
    return _decode(self, groups)


if __name__ == "__main__":
    ModelRunner.decode = _decode_when_it_may  # type: ignore[method-assign]
    _wait()
    engine_process.main()
