"""OpenAI's audio API: `/v1/audio/transcriptions` and `/v1/audio/translations`.

Knows nothing about models or batching, nor how answers look: `service/api/openai_events.py` does.
"""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse

from service.api.deps import Services, get_services
from service.api.intake import admit, event_stream, open_transcription, whole
from service.api.openai_events import DIALECT, OpenAITranscript, TextDone
from service.api.openai_options import (
    ALIASES,
    JSON_FORMATS,
    Parser,
    parse_transcription,
    parse_translation,
)
from service.api.openapi_openai import TRANSCRIPTIONS, TRANSLATIONS
from service.api.schemas import UNKNOWN
from service.api.sse import HEADERS
from service.errors import InvalidRequest
from service.transcription.render import Format, render_text

router = APIRouter(tags=["OpenAI"])

ServicesDep = Annotated[Services, Depends(get_services)]
_SENT_AS = {name: sent for sent, name in ALIASES.items()}
_MEDIA_TYPES = {
    Format.TEXT: "text/plain",
    Format.SRT: "application/x-subrip; charset=utf-8",
    Format.VTT: "text/vtt",
    Format.TSV: "text/tab-separated-values",
}


@router.post(
    "/v1/audio/transcriptions",
    summary="Transcribe, as OpenAI does",
    response_model=None,
    **TRANSCRIPTIONS,
)
async def transcriptions(request: Request, services: ServicesDep) -> Response:
    """Transcribe one recording."""
    return await _answer(request, services, parse_transcription, "transcribe")


@router.post(
    "/v1/audio/translations",
    summary="Translate, as OpenAI does",
    response_model=None,
    **TRANSLATIONS,
)
async def translations(request: Request, services: ServicesDep) -> Response:
    """Translate one recording into English."""
    return await _answer(request, services, parse_translation, "translate")


async def _answer(request: Request, services: Services, parse: Parser, task: str) -> Response:
    admission = admit(request, services)
    async with admission.deadline.enforced():
        try:
            transcription, options = await open_transcription(admission, parse, form_only=True)
        except InvalidRequest as error:
            # What the transcriber refuses, it calls by our name: the client shall read its own.
            error.param = _sent_as(error.param)
            if error.param == "task" and error.code != UNKNOWN:
                error.param = "model"  # it cannot translate, and nobody sent a task
            raise
        tokenizer = admission.serving.transcriber.tokenizer
        transcript = OpenAITranscript(transcription, options, task, tokenizer)
        if not options.stream:
            done, logprobs = await whole(admission, transcription, transcript.result())
            if options.response_format in JSON_FORMATS:
                return JSONResponse(transcript.answer(done, logprobs), headers=HEADERS)
            form = options.response_format
            text = await asyncio.to_thread(render_text, done, form, options.layout)
            return PlainTextResponse(text, headers=HEADERS, media_type=_MEDIA_TYPES[form])
    return event_stream(
        admission, transcription, transcript.events(), last=TextDone.type, dialect=DIALECT
    )


def _sent_as(param: str | None) -> str | None:
    return None if param is None else _SENT_AS.get(param, param)
