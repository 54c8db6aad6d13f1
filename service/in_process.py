"""A model and its engine in the process that uses them, for who has no requests to answer.

Brings torch.
"""

from __future__ import annotations

from service.api.deps import Serving
from service.engine.hosts import ThreadHost
from service.loading import load
from service.metrics import Metrics
from service.serving import serving_over
from service.settings import Settings
from service.transcription.worker import Worker


async def load_serving(settings: Settings, source: str, metrics: Metrics) -> Serving:
    """Load the model and run its engine on a thread of this process, by this event loop.

    The thread that loads ends then, and the engine's is the only one that computes with torch from
    then on (docs/adr/0017).

    Args:
        settings: of the process.
        source: path or hub id of the model.
        metrics: the process's instruments.

    Raises:
        CheckpointError: if the model cannot be read.
        DeviceError: if it cannot be put where it should be.
        EngineDead: if it cannot do an inference.
    """
    loader = Worker("load")
    core, at_work = await loader.run(load, settings, source)
    del loader  # its thread ends, and with it torch's helpers for it
    return await serving_over(ThreadHost(core), at_work, settings, metrics)
