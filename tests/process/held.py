"""`earshot` that stands still for as long as a file exists: it does not load, or does not decode.

What a test looks at meanwhile cannot be over before it looks, however busy the machine is.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path

from service import loading
from service.api.deps import Serving
from service.cli import main
from service.decoding.hypotheses import Candidates
from service.engine.runner import ModelRunner
from service.engine.types import Group, Sampled
from service.metrics import Metrics
from service.settings import Settings

VARIABLE = "HOLD"
_PAUSE_S = 0.01
_load, _decode = loading.load_serving, ModelRunner.decode


def _holds() -> bool:
    return Path(os.environ[VARIABLE]).exists()


async def _load_when_it_may(settings: Settings, source: str, metrics: Metrics) -> Serving:
    while _holds():  # noqa: ASYNC110 - it is told by no event
        await asyncio.sleep(_PAUSE_S)
    return await _load(settings, source, metrics)


def _decode_when_it_may(self: ModelRunner, groups: Sequence[Group]) -> list[Sampled | Candidates]:
    while _holds():
        time.sleep(_PAUSE_S)
    return _decode(self, groups)


if __name__ == "__main__":
    loading.load_serving = _load_when_it_may
    ModelRunner.decode = _decode_when_it_may  # type: ignore[method-assign]
    main()
