"""From a model that is loaded, here or in a process of its own, to what serves with it.

Knows nothing about torch or HTTP: the process that answers requests needs none of the model.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import cast

from service import __version__
from service.api.deps import Serving
from service.at_work import ModelAtWork
from service.audio.log_maximum import LogMaximum
from service.audio.vad import SpeechModels
from service.engine.engine import Engine, EngineConfig
from service.engine.hosts import Host
from service.engine.process import ProcessHost
from service.metrics import Metrics
from service.settings import Settings, variable
from service.transcription.transcriber import Transcriber

logger = logging.getLogger(__name__)

PROGRAM = (sys.executable, "-P", "-m", "service.engine_process")
"""Of the engine's process."""
KEYS = ("api_keys", "api_keys_file")
"""Settings that it is not told."""


async def serve_apart(settings: Settings, source: str, metrics: Metrics) -> Serving:
    """Load the model in a process of its own and let its engine run there.

    Args:
        settings: of both processes.
        source: path or hub id of the model.
        metrics: of this process.

    Raises:
        CheckpointError: if the model cannot be read.
        DeviceError: if it cannot be put where it should be.
        EngineDead: if the process ends, or cannot do an inference.
    """
    host = await ProcessHost.start_program(PROGRAM, hidden=map(variable, KEYS))
    try:
        without_keys = settings.model_copy(update=dict.fromkeys(KEYS))
        at_work = cast("ModelAtWork", await host.load((without_keys, source)))
        return await serving_over(host, at_work, settings, metrics)
    except BaseException:
        host.kill()
        raise


async def serving_over(
    host: Host, at_work: ModelAtWork, settings: Settings, metrics: Metrics
) -> Serving:
    """Start and warm the engine over a model that is loaded.

    Raises:
        EngineDead: if it cannot do an inference.
    """
    log_maximum = LogMaximum(at_work.n_mels)
    speech_models = SpeechModels()
    await asyncio.to_thread(speech_models.warm_up)
    engine = Engine(host, config=EngineConfig(settings.max_requests), metrics=metrics)
    engine.start()
    await engine.until_ready()
    _describe(at_work, metrics)
    return Serving(
        engine,
        Transcriber(at_work.facts, at_work.tokenizer, log_maximum, speech_models),
        device=at_work.device,
        dtype=at_work.dtype,
        numerics=at_work.numerics,
        flow=at_work.flow,
    )


def _describe(at_work: ModelAtWork, metrics: Metrics) -> None:
    name, device, dtype = at_work.facts.name, at_work.device, at_work.dtype
    metrics.build_info.labels(__version__, at_work.torch_version, device, dtype).set(1)
    metrics.model_info.labels(name).set(1)
    metrics.kv_cache_bytes.set(at_work.kv_cache_bytes)
    metrics.model_loaded.set(1)
    logger.info(
        "%s on %s in %s, %s numerics, %d threads",
        name, device, dtype, at_work.numerics, at_work.n_threads,
    )  # fmt: skip
