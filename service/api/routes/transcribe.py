"""`POST /transcribe`: audio in, events or one JSON object out. Knows nothing about models."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from service.api.deps import Services, get_services
from service.api.intake import admit, event_stream, open_transcription, whole
from service.api.openapi import TRANSCRIBE
from service.api.schemas import parse_options
from service.api.sse import HEADERS
from service.transcription.events import Done

router = APIRouter(tags=["transcription"])


@router.post("/transcribe", summary="Transcribe a recording", response_model=None, **TRANSCRIBE)
async def transcribe(
    request: Request, services: Annotated[Services, Depends(get_services)]
) -> Response:
    """Transcribe one recording and stream its tokens while they are decoded."""
    admission = admit(request, services)
    parse_options(request.query_params.multi_items())
    async with admission.deadline.enforced():
        transcription, options = await open_transcription(admission, parse_options)
        if not options.stream:
            done = await whole(admission, transcription, transcription.result())
            return JSONResponse(done.to_dict(), headers=HEADERS)
    return event_stream(admission, transcription, transcription.events(), last=Done.type)
