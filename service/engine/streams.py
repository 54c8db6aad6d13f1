"""Two queues of work on one GPU, so that windows are encoded while rows decode.

Decoder steps are short and wait for memory, encoder passes are long and wait for arithmetic. Work
beside the steps has the lower priority: its blocks take what the steps leave. On other devices
everything happens in line, and nothing here does anything.

Knows nothing about what the work is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager

import torch

_BEFORE_OTHERS = -1
"""Priority of a CUDA stream: the lower number goes first, 0 is the usual one."""


def new_stream(device: torch.device, priority: int) -> torch.cuda.Stream:
    """Return a queue of a CUDA device."""
    return torch.cuda.Stream(device, priority=priority)  # type: ignore[no-untyped-call]


class Streams:
    """The queue of a thread's own work, and one beside it.

    Args:
        device: that the work runs on.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._own: torch.cuda.Stream | None = None
        self._beside: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._own = new_stream(device, _BEFORE_OTHERS)
            self._beside = new_stream(device, 0)

    def on_thread(self) -> AbstractContextManager[object]:
        """Return the context in which a thread's work goes to its own queue.

        What other threads have given the device so far is done first.
        """
        stack = contextlib.ExitStack()
        if self._own is not None:
            stack.enter_context(torch.cuda.device(self._device))
            torch.cuda.synchronize()
            stack.enter_context(torch.cuda.stream(self._own))
        return stack

    @contextlib.contextmanager
    def beside(self) -> Iterator[None]:
        """Let what is ordered here start after what was ordered so far, and run beside the rest."""
        if self._beside is None:
            yield
            return
        self._beside.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._beside):
            yield

    def join(self) -> None:
        """Let what is ordered from now on start after what runs beside. The host does not wait."""
        if self._beside is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._beside)
