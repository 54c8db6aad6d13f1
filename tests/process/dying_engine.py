"""The engine's process on a device that is lost at the first upload that is not silent."""

from __future__ import annotations

from collections.abc import Sequence

from service import engine_process
from service.engine.runner import ModelRunner
from service.engine.types import RunnerDead, WindowInput

_encode = ModelRunner.encode


def _lose_device(self: ModelRunner, windows: Sequence[tuple[int, WindowInput]]) -> None:
    if any(window.samples.any() for _, window in windows):
        raise RunnerDead("an illegal memory access was encountered")
    _encode(self, windows)


if __name__ == "__main__":
    ModelRunner.encode = _lose_device  # type: ignore[method-assign]
    engine_process.main()
