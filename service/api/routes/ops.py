"""Probes and metrics: what operators and their machines ask. No key is needed."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from service.api.deps import Services, get_services
from service.engine.engine import EngineState
from service.metrics import CONTENT_TYPE

router = APIRouter(tags=["operations"])

ServicesDep = Annotated[Services, Depends(get_services)]
_NO_STORE = {"cache-control": "no-store"}
_STATE: dict[str, Any] = {
    "description": "the state",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["status", "model", "version", "queue_audio_s"],
                "properties": {
                    "status": {"type": "string", "enum": [str(state) for state in EngineState]},
                    "model": {"type": "string"},
                    "version": {"type": "string"},
                    "queue_audio_s": {"type": "number"},
                },
            }
        }
    },
}
_STATES: dict[int | str, dict[str, Any]] = {200: _STATE, 503: _STATE}


@router.get(
    "/livez", summary="200 unless the engine is dead: restart the process then", responses=_STATES
)
@router.get(
    "/health", summary="200 unless the engine is dead; the state is in the body", responses=_STATES
)
@router.get("/healthz", include_in_schema=False)
async def health(services: ServicesDep) -> Response:
    """Tell whether the process is alive, and in which state."""
    dead = services.state is EngineState.DEAD
    return _answer(services, HTTPStatus.SERVICE_UNAVAILABLE if dead else HTTPStatus.OK)


@router.get("/readyz", summary="200 when new work is taken, otherwise 503", responses=_STATES)
@router.get("/ping", include_in_schema=False)
async def readyz(services: ServicesDep) -> Response:
    """Tell whether new work is taken."""
    ready = services.state is EngineState.READY
    return _answer(services, HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE)


@router.get("/metrics", summary="Prometheus metrics", response_class=PlainTextResponse)
async def metrics(services: ServicesDep) -> Response:
    """Return every instrument in Prometheus's text format."""
    return Response(services.metrics.render(), headers={"content-type": CONTENT_TYPE} | _NO_STORE)


def _answer(services: Services, status: HTTPStatus) -> Response:
    config = services.config
    body: dict[str, Any] = {
        "status": str(services.state),
        "model": config.model_id,
        "version": config.version,
        "queue_audio_s": round(services.audio_budget.held_s, 1),
    }
    if services.failure is not None:
        body["reason"] = str(services.failure)
    if services.serving is not None:
        serving = services.serving
        body |= {"device": serving.device, "dtype": serving.dtype, "numerics": serving.numerics}
        body["engine"] = serving.engine.stats()
    return JSONResponse(body, status, _NO_STORE)
