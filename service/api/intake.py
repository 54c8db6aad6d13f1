"""From a request to an open transcription: what all routes that take audio have in common.

Knows nothing about how options are named or answers written. The order is the point: the permit
before the body, the options before the audio is decoded.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from fastapi import Request
from numpy.typing import NDArray

from service.api.admission import AudioReservation
from service.api.body import BodyLimits, check_headers, read_chunks
from service.api.deadline import Deadline, deadline_of
from service.api.deps import Services, Serving
from service.api.disconnect import race
from service.api.errors import error_body
from service.api.form import FILE, FormLimits, Upload, read_upload
from service.api.record import RequestRecord
from service.api.sse import Dialect, EventStream, WireEvent
from service.engine.engine import Session
from service.errors import InvalidRequest, ModelNotFound
from service.transcription.params import TranscriptionParams
from service.transcription.transcriber import Transcription

BYTES_PER_SECOND = 64_000
"""Of 16 kHz float32 audio: what a second of the audio budget stands for."""

Pairs = Iterable[tuple[str, str]]
T = TypeVar("T")


class Options(Protocol):
    """What a request asks for, in whatever dialect."""

    @property
    def model(self) -> str | None:
        """The model that it names, if it does."""

    @property
    def stream(self) -> bool:
        """Whether it wants events."""

    def params(self) -> TranscriptionParams:
        """Return how to transcribe."""


Parsed = TypeVar("Parsed", bound=Options)


@dataclass(frozen=True, slots=True)
class Admission:
    """A request that has its permit, and nothing else yet.

    Attributes:
        session: the permit; free when the request ends.
        deadline: of the whole request.
    """

    request: Request
    services: Services
    serving: Serving
    record: RequestRecord
    session: Session
    deadline: Deadline


def admit(request: Request, services: Services) -> Admission:
    """Return the request's place, before any of its body is read.

    Raises:
        Unavailable: if there is no place, or no engine.
        InvalidRequest: for an impossible deadline.
    """
    record = RequestRecord.of(request)
    serving = services.require_serving()
    longest_s = services.config.max_request_timeout_s
    deadline = deadline_of(request.headers, longest_s, record.arrived_at)
    session = serving.engine.session()
    record.resources.callback(session.close)
    return Admission(request, services, serving, record, session, deadline)


def require_model(services: Services, model_id: str) -> None:
    """Check that a request's model is the one that is served.

    Raises:
        ModelNotFound: if it is not.
    """
    if not is_served(services, model_id):
        raise ModelNotFound(
            f"model {model_id[:80]!r} is not served here, only {services.config.model_id!r}",
            param="model",
        )


def is_served(services: Services, model_id: str) -> bool:
    """Whether this is the id or an alias of the model that is served."""
    return model_id in (services.config.model_id, *services.config.model_aliases)


async def open_transcription(
    admission: Admission, parse: Callable[[Pairs], Parsed], *, form_only: bool = False
) -> tuple[Transcription, Parsed]:
    """Return the transcription of the upload, not begun yet, and the options that came with it.

    Args:
        admission: of the request; its body has not been read.
        parse: makes the options of names and values, in the query and in the form.
        form_only: refuse a body that is the file itself.

    Raises:
        ServiceError: for whatever is wrong with body, options or audio.
    """
    services, record = admission.services, admission.record
    held = services.audio_budget.reserve()
    record.resources.callback(held.release)
    with record.timed("upload", services.metrics):
        upload = await _read(admission, held, form_only=form_only)
    if upload.data is None:
        raise InvalidRequest(f"the form has no part {FILE!r}", param=FILE)
    if not upload.data:
        raise InvalidRequest("the file is empty", param=FILE, code="invalid_audio")
    options = parse([*admission.request.query_params.multi_items(), *upload.options])
    if options.model is not None:
        require_model(services, options.model)
    params = admission.serving.transcriber.check(options.params())
    with record.timed("decode_audio", services.metrics):
        waveform = await _decode(admission, upload)
    held.release()
    record.transcription = admission.serving.transcriber.open(
        waveform,
        params,
        admission.session,
        request_id=record.id,
        arrived_at=record.arrived_at,
    )
    record.stage = "transcribe"
    record.stream = options.stream
    return record.transcription, options


async def whole(admission: Admission, transcription: Transcription, work: Awaitable[T]) -> T:
    """Return what comes of all of a transcription, unless the client leaves before it is there."""

    async def awaited() -> T:
        return await work

    try:
        return await race(admission.request.receive, awaited())
    finally:
        transcription.close()


def event_stream(
    admission: Admission,
    transcription: Transcription,
    events: AsyncGenerator[WireEvent, None],
    *,
    last: str,
    dialect: Dialect | None = None,
) -> EventStream:
    """Return the answer that streams events, and closes the transcription at its end.

    Args:
        admission: of the request.
        transcription: that the events tell of.
        events: what to send.
        last: the type of the last one: who reads it finds the place free that was taken for it.
        dialect: how they are written.
    """
    config, record = admission.services.config, admission.record

    async def freeing() -> AsyncGenerator[WireEvent, None]:
        async with aclosing(events) as source:
            async for event in source:
                if event.type == last:
                    record.resources.close()
                yield event

    def note(error: Exception) -> dict[str, Any]:
        record.resources.close()
        record.fail(error)
        return error_body(error)

    return EventStream(
        freeing(),
        on_error=note,
        on_close=transcription.close,
        keepalive_s=config.keepalive_s,
        send_timeout_s=config.send_timeout_s,
        deadline=admission.deadline,
        dialect=dialect,
    )


async def _read(admission: Admission, held: AudioReservation, *, form_only: bool) -> Upload:
    """Return the upload; what arrives counts as memory held."""
    config, request = admission.services.config, admission.request
    limits = BodyLimits(config.max_upload_bytes, config.body_timeout_s, config.body_idle_timeout_s)
    form_limits = FormLimits(config.max_form_parts, config.max_field_bytes)
    check_headers(request.headers, limits)

    async def counted() -> AsyncGenerator[bytes, None]:
        async with aclosing(read_chunks(request.receive, limits)) as chunks:
            async for chunk in chunks:
                admission.record.upload_bytes += len(chunk)
                held.grow_to(admission.record.upload_bytes / BYTES_PER_SECOND)
                yield chunk

    content_type = request.headers.get("content-type")
    async with aclosing(counted()) as chunks:
        return await read_upload(content_type, chunks, form_limits, form_only=form_only)


async def _decode(admission: Admission, upload: Upload) -> NDArray[np.float32]:
    """Return the samples of the upload, their seconds reserved."""
    services = admission.services
    reservation = services.audio_budget.reserve()
    admission.record.resources.callback(reservation.release)
    data, upload.data = upload.data or b"", None
    decoding = services.audio_decoder.decode(data, on_seconds=reservation.grow_to)
    del data
    try:
        return await race(admission.request.receive, decoding)
    except InvalidRequest as error:
        error.param = error.param or FILE
        raise
