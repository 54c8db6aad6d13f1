"""`POST /transcribe`: audio in, events or one JSON object out. Knows nothing about models."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse

from service.api.deps import Services, get_services
from service.api.intake import admit, event_stream, open_transcription, whole
from service.api.openapi import DETECT_LANGUAGE, TRANSCRIBE
from service.api.schemas import DetectOptions, parse, parse_options
from service.api.sse import HEADERS
from service.errors import InvalidRequest
from service.text.languages import LANGUAGES
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


@router.post(
    "/detect-language", summary="Tell the language of a recording", response_model=None,
    **DETECT_LANGUAGE,
)  # fmt: skip
async def detect_language(
    request: Request, services: Annotated[Services, Depends(get_services)]
) -> Response:
    """Tell what is spoken in the first 30 s of a recording: the probability of each language."""
    admission = admit(request, services)
    if not admission.serving.transcriber.tokenizer.is_multilingual:
        raise InvalidRequest("this model is English only: there is no language to detect")
    _parse_detection(request.query_params.multi_items())
    async with admission.deadline.enforced():
        transcription, _ = await open_transcription(admission, _parse_detection)
        found = await whole(admission, transcription, transcription.languages())
    code, probability = found[0]
    answer = {
        "language": code,
        "language_name": LANGUAGES[code],
        "probability": probability,
        "probabilities": dict(found),
        "duration_s": transcription.duration_s,
    }
    return JSONResponse(answer, headers=HEADERS)


def _parse_detection(pairs: Iterable[tuple[str, str]]) -> DetectOptions:
    return parse(DetectOptions, pairs)
