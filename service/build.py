"""The composition root: from settings to the app and its services.

Cheap to import and to run, so that the server listens at once: what needs torch stands in
`service/loading.py`, which the engine's process imports.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from service import __version__
from service.api.deps import ApiConfig, Services, Serving
from service.api.keys import ApiKeys
from service.audio.decode import AudioDecoder, AudioLimits
from service.memory import give_back, keep_what_is_there
from service.metrics import Metrics
from service.serving import serve_apart
from service.settings import Settings

BUILTIN = "builtin"
BUILTIN_FOLDER = Path(__file__).with_name("builtin")


def build_services(settings: Settings, on_dead: Callable[[BaseException], None]) -> Services:
    """Return the services of a process; nothing is started yet."""
    metrics = Metrics()

    async def load() -> Serving:
        serving = await serve_apart(settings, model_source(settings), metrics)
        keep_what_is_there()
        give_back()  # what loading left
        return serving

    return Services(api_config(settings), metrics, build_decoder(settings), load, on_dead)


def build_decoder(settings: Settings) -> AudioDecoder:
    """Return the decoder of uploads, not started yet."""
    limits = AudioLimits(
        max_upload_bytes=settings.max_upload_bytes,
        max_audio_s=settings.max_audio_seconds,
        max_channels=settings.max_channels,
        max_decoded_bytes=settings.max_decoded_bytes,
        decode_timeout_s=settings.decode_timeout_s,
    )
    return AudioDecoder(limits, max_children=settings.decode_children)


def api_config(settings: Settings) -> ApiConfig:
    """Return the limits and deadlines of the HTTP interface."""
    return ApiConfig(
        model_id=model_name(settings),
        api_keys=ApiKeys(settings.all_api_keys),
        cors_origins=settings.all_cors_origins,
        created_s=created_s(settings),
        version=__version__,
        max_upload_bytes=settings.max_upload_bytes,
        max_queue_audio_s=settings.max_queued_audio_seconds,
        max_request_timeout_s=settings.max_request_timeout_s,
        body_timeout_s=settings.body_timeout_s,
        body_idle_timeout_s=settings.body_idle_timeout_s,
        send_timeout_s=settings.send_timeout_s,
        keepalive_s=settings.keepalive_s,
    )


def model_source(settings: Settings) -> str:
    """Return where the model is: the setting, or the folder of the built-in one."""
    return str(BUILTIN_FOLDER) if settings.model == BUILTIN else settings.model


def model_name(settings: Settings) -> str:
    """Return what `/v1/models` calls the model: a hub id as it is, a path by its last part."""
    path = Path(settings.model).expanduser()
    return path.resolve().name if path.exists() else settings.model


def created_s(settings: Settings) -> int:
    """Return the Unix time of the model's files; of now for one from the hub."""
    path = Path(model_source(settings)).expanduser()
    return int(path.stat().st_mtime) if path.exists() else int(time.time())
