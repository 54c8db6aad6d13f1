"""Records what a function does to tensors and repeats it, as a CUDA graph does, on a CPU.

What is repeated are the same operations on the same memory: whatever the host looked at or chose
when it was recorded stays as it was. An operation that would make the host wait cannot be recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from service.engine.fixed_step import FixedStep, StepShape

WAITING = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique")


class Recording(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The operations of a function, in their order."""

    def __init__(self, function: Callable[[], object]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._calls: list[tuple[Callable[..., Any], Any, Any, Any]] = []
        with self:
            function()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: Any = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        name = func.overloadpacket.__name__
        assert name not in WAITING, f"{name} waits for the device"
        out = func(*args, **(kwargs or {}))
        self._calls.append((func, args, kwargs or {}, out))
        return out

    def replay(self) -> None:
        """Do the operations again, each writing where it wrote before."""
        for func, args, kwargs, out in self._calls:
            again = tree_leaves(func(*args, **kwargs))
            for before, after in zip(tree_leaves(out), again, strict=True):
                if isinstance(before, Tensor) and before.data_ptr() != after.data_ptr():
                    before.copy_(after)


class Recorded:
    """Takes the steps of a `FixedStep` by recordings, each made of idle rows when first wanted."""

    def __init__(self, step: FixedStep) -> None:
        self._step = step
        self._recordings: dict[StepShape, Recording] = {}
        self.n_replayed = 0

    def __call__(self, shape: StepShape) -> None:
        if shape not in self._recordings:
            given = self._step.places.clone()
            self._step.idle()
            self._recordings[shape] = Recording(lambda: self._step.run_operations(shape))
            self._step.places.copy_(given)
        with torch.inference_mode():
            self._recordings[shape].replay()
        self.n_replayed += 1
