"""A model without memory for its weights. Knows nothing about where they come from.

Drawing random numbers on the meta device would import all of torch.compile: a second, and a
hundred megabytes, of every start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from service.model.config import WhisperConfig
from service.model.whisper import WhisperModel


class _Uninitialised(TorchFunctionMode):
    """Leaves out what `torch.nn.init` would draw."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - torch's signature
        given = dict(kwargs or {})
        if getattr(func, "__module__", None) == nn.init.__name__:
            return given["tensor"] if "tensor" in given else args[0]
        return func(*args, **given)


def empty_model(config: WhisperConfig) -> WhisperModel:
    """Return a model whose parameters have shapes and nothing else, to be given weights."""
    with torch.device("meta"), _Uninitialised():
        return WhisperModel(config)
