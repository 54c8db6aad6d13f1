"""`/v1/models`: the model that is served, as OpenAI lists it, and its data flow."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Response
from fastapi.responses import JSONResponse

from service.api.accept import preferred
from service.api.deps import Services, get_services
from service.api.intake import is_served, require_model
from service.errors import ModelNotFound

router = APIRouter(tags=["OpenAI"])

ServicesDep = Annotated[Services, Depends(get_services)]
_JSON, _SVG, _TEXT = "application/json", "image/svg+xml", "text/plain"


@router.get("/v1/models", summary="The model that is served, as OpenAI lists it")
async def models(services: ServicesDep) -> dict[str, Any]:
    """Return the list of the one model."""
    return {"object": "list", "data": [_model(services)]}


@router.get(
    "/v1/models/{model_id:path}/flow",
    summary="The model's data flow: JSON, or drawn as SVG or text, by `Accept`",
    responses={200: {"content": {_SVG: {}, _TEXT: {}}}},
)
async def flow(
    model_id: str, services: ServicesDep, accept: Annotated[str, Header()] = ""
) -> Response:
    """Return what the service computes, box by box, with what the model's file holds."""
    if is_served(services, f"{model_id}/flow"):  # a model whose name ends so
        return JSONResponse(_model(services))
    require_model(services, model_id)
    serving = services.serving or services.require_serving()
    if serving.flow is None:
        raise ModelNotFound(f"model {model_id[:80]!r} comes from no file", param="model")
    media_type = preferred(accept, (_JSON, _SVG, _TEXT))
    headers = {"vary": "Accept"}
    if media_type == _JSON:
        return JSONResponse(serving.flow.report, headers=headers)
    drawing = serving.flow.svg if media_type == _SVG else serving.flow.text
    return Response(drawing, headers=headers, media_type=media_type)


@router.get("/v1/models/{model_id:path}", summary="One model")
async def model(model_id: str, services: ServicesDep) -> dict[str, Any]:
    """Return the model with this id or alias."""
    require_model(services, model_id)
    return _model(services)


def _model(services: Services) -> dict[str, Any]:
    config = services.config
    return {
        "id": config.model_id,
        "object": "model",
        "created": config.created_s,
        "owned_by": "earshot",
    }
