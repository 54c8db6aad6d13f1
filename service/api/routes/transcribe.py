"""`POST /transcribe`: audio in, events or one JSON object out.

Knows nothing about models or batching. The order is the point: the permit before the body, the
options before the audio is decoded, and the answer's owner frees everything.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from numpy.typing import NDArray

from service.api.admission import AudioReservation
from service.api.body import BodyLimits, check_headers, read_chunks
from service.api.deadline import deadline_of
from service.api.deps import Services, Serving, get_services
from service.api.disconnect import race
from service.api.errors import error_body
from service.api.form import FILE, FormLimits, Upload, read_upload
from service.api.openapi import TRANSCRIBE
from service.api.record import RequestRecord
from service.api.routes.ops import require_model
from service.api.schemas import parse_options
from service.api.sse import HEADERS, EventStream
from service.engine.engine import Session
from service.errors import InvalidRequest
from service.transcription.events import Done, Event
from service.transcription.transcriber import Transcription

router = APIRouter(tags=["transcription"])

BYTES_PER_SECOND = 64_000
"""Of 16 kHz float32 audio: what a second of the audio budget stands for."""


@router.post("/transcribe", summary="Transcribe a recording", response_model=None, **TRANSCRIBE)
async def transcribe(
    request: Request, services: Annotated[Services, Depends(get_services)]
) -> Response:
    """Transcribe one recording and stream its tokens while they are decoded."""
    record = RequestRecord.of(request)
    serving = services.require_serving()
    longest_s = services.config.max_request_timeout_s
    deadline = deadline_of(request.headers, longest_s, record.arrived_at)
    session = serving.engine.session()
    record.resources.callback(session.close)
    parse_options(request.query_params.multi_items())
    async with deadline.enforced():
        transcription, stream = await _open(request, services, serving, session)
        if not stream:
            return await _whole(request, transcription)
    return EventStream(
        _events(record, transcription),
        on_error=lambda error: _note(record, error),
        on_close=transcription.close,
        keepalive_s=services.config.keepalive_s,
        send_timeout_s=services.config.send_timeout_s,
        deadline=deadline,
    )


async def _open(
    request: Request, services: Services, serving: Serving, session: Session
) -> tuple[Transcription, bool]:
    """Return the transcription of the upload, not begun yet, and whether to stream it."""
    record = RequestRecord.of(request)
    held = services.audio_budget.reserve()
    record.resources.callback(held.release)
    with record.timed("upload", services.metrics):
        upload = await _read(request, services, record, held)
    options = parse_options([*request.query_params.multi_items(), *upload.options])
    if options.model is not None:
        require_model(services, options.model)
    params = serving.transcriber.check(options.params())
    with record.timed("decode_audio", services.metrics):
        waveform = await _decode(request, services, record, upload)
    held.release()
    record.transcription = serving.transcriber.open(
        waveform, params, session, request_id=record.id, arrived_at=record.arrived_at
    )
    record.stage = "transcribe"
    record.stream = options.stream
    return record.transcription, options.stream


async def _whole(request: Request, transcription: Transcription) -> Response:
    """Return the transcript in one piece, unless the client leaves before it is there."""
    try:
        done = await race(request.receive, transcription.result())
    finally:
        transcription.close()
    return JSONResponse(done.to_dict(), headers=HEADERS)


async def _events(
    record: RequestRecord, transcription: Transcription
) -> AsyncGenerator[Event, None]:
    """Yield the events; who reads the last one finds the place free that was taken for it."""
    async with aclosing(transcription.events()) as events:
        async for event in events:
            if isinstance(event, Done):
                record.resources.close()
            yield event


async def _read(
    request: Request, services: Services, record: RequestRecord, held: AudioReservation
) -> Upload:
    """Return the upload, with at least a byte of a file; what arrives counts as memory held."""
    config = services.config
    limits = BodyLimits(config.max_upload_bytes, config.body_timeout_s, config.body_idle_timeout_s)
    form_limits = FormLimits(config.max_form_parts, config.max_field_bytes)
    check_headers(request.headers, limits)

    async def counted() -> AsyncGenerator[bytes, None]:
        async with aclosing(read_chunks(request.receive, limits)) as chunks:
            async for chunk in chunks:
                record.upload_bytes += len(chunk)
                held.grow_to(record.upload_bytes / BYTES_PER_SECOND)
                yield chunk

    async with aclosing(counted()) as chunks:
        upload = await read_upload(request.headers.get("content-type"), chunks, form_limits)
    if upload.data is None:
        raise InvalidRequest(f"the form has no part {FILE!r}", param=FILE)
    if not upload.data:
        raise InvalidRequest("the file is empty", param=FILE, code="invalid_audio")
    return upload


async def _decode(
    request: Request, services: Services, record: RequestRecord, upload: Upload
) -> NDArray[np.float32]:
    """Return the samples of the upload, their seconds reserved."""
    reservation = services.audio_budget.reserve()
    record.resources.callback(reservation.release)
    data, upload.data = upload.data or b"", None
    decoding = services.audio_decoder.decode(data, on_seconds=reservation.grow_to)
    del data
    try:
        return await race(request.receive, decoding)
    except InvalidRequest as error:
        error.param = error.param or FILE
        raise


def _note(record: RequestRecord, error: Exception) -> dict[str, Any]:
    """Return the data of a stream's last event; what the request held is free before it is sent."""
    record.resources.close()
    record.fail(error)
    return error_body(error)
