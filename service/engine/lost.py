"""Tells a lost device from other errors. Knows nothing about what ran on it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from service.engine.types import RunnerDead

_LOST = ("CUDA error", "CUBLAS_STATUS_", "CUDNN_STATUS_")


@contextlib.contextmanager
def lost_device_is_dead() -> Iterator[None]:
    """Turn a lost device into `RunnerDead`: after such an error no CUDA call succeeds."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if isinstance(error, torch.AcceleratorError) or any(sign in text for sign in _LOST):
            raise RunnerDead(text) from error
        raise
