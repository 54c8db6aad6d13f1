"""Records the steps of a `FixedStep` as CUDA graphs, one a shape, and repeats them.

A step is hundreds of small kernels, each of which the host takes longer to launch than the device
to run. Of a recording it launches one. All recordings share one pool of memory: what a step leaves
there is read by nobody, and no two run at the same time.

Knows nothing about models.
"""

from __future__ import annotations

import logging
import time

import torch

from service.engine.fixed_step import FixedStep, StepShape
from service.engine.streams import new_stream

logger = logging.getLogger(__name__)

_WARM_UPS = 2
"""Steps of each shape before it is recorded: libraries set themselves up in the first ones."""


class CudaGraphs:
    """The recordings of a step.

    Needs a CUDA device.

    Args:
        step: of rows on it.
    """

    def __init__(self, step: FixedStep) -> None:
        self._step = step
        self._graphs: dict[StepShape, torch.cuda.CUDAGraph] = {}

    def record(self) -> None:
        """Record every shape, the largest first, and let the step repeat them from now on.

        Only while nothing runs. To be called on the stream that steps will run on, whose priority
        the recorded kernels keep. Where the device cannot record a step, a warning says so and
        steps go on kernel by kernel.

        Raises:
            torch.OutOfMemoryError: if the largest shapes do not fit.
        """
        began, before = time.perf_counter(), torch.cuda.memory_reserved()
        current = torch.cuda.current_stream()
        self._step.idle()
        try:
            self._record(current)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            torch.cuda.set_stream(current)
            self._graphs.clear()
            logger.warning(
                "steps cannot be recorded, they are launched kernel by kernel: %s", error
            )
            return
        self._step.run = self.replay
        logger.info(
            "recorded %d decode steps in %.1f s and %.0f MB",
            len(self._graphs),
            time.perf_counter() - began,
            (torch.cuda.memory_reserved() - before) / 1e6,
        )

    def _record(self, current: torch.cuda.Stream) -> None:
        """Record every shape on a stream beside the current one."""
        stream = new_stream(self._step.device, current.priority)
        pool = torch.cuda.graph_pool_handle()
        for shape in self._step.shapes:
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UPS):
                    self._step.run_operations(shape)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(
                graph, pool=pool, stream=stream, capture_error_mode="thread_local"
            ):
                self._step.run_operations(shape)
            self._graphs[shape] = graph
        torch.cuda.synchronize()

    def replay(self, shape: StepShape) -> None:
        """Repeat the step of a shape on the current stream, with what its buffers hold now."""
        self._graphs[shape].replay()


def warm_up(step: FixedStep) -> None:
    """Run every shape of a step with idle rows, and on a CUDA device record it."""
    if step.device.type == "cuda":
        CudaGraphs(step).record()
        return
    step.idle()
    for shape in step.shapes:
        step.run_operations(shape)
