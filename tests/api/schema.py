"""The schema of the app, without a server or a model."""

from __future__ import annotations

from typing import Any

from service.api.app import create_app
from service.api.deps import ApiConfig, Services, Serving
from service.audio.decode import AudioDecoder, AudioLimits
from service.metrics import Metrics


def app_schema() -> dict[str, Any]:
    """Return what /openapi.json says."""

    async def load() -> Serving:
        raise AssertionError("nothing is served")

    limits = AudioLimits(
        max_upload_bytes=1, max_audio_s=1, max_channels=1, max_decoded_bytes=1, decode_timeout_s=1
    )
    services = Services(ApiConfig("m"), Metrics(), AudioDecoder(limits, max_children=1), load)
    return create_app(services).openapi()
