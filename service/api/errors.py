"""Errors as HTTP: one table, one envelope, everywhere.

Knows nothing about who raised what. `{"error": {"message", "type", "param", "code"}}` is the body
of every answer that is not a success, and the data of an `error` event after the first byte.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from service.errors import (
    DeadlineExceeded,
    DecodingFailed,
    EngineBusy,
    InvalidRequest,
    ModelNotFound,
    PayloadTooLarge,
    RequestTimeout,
    ServiceError,
    Unauthorized,
    Unavailable,
)

logger = logging.getLogger(__name__)

INVALID_REQUEST = "invalid_request_error"
RATE_LIMIT = "rate_limit_error"
SERVER_ERROR = "server_error"

REFUSAL = "refusal"
"""Where the error that a request was answered with stands, in its state."""


@dataclass(frozen=True, slots=True)
class Answer:
    """How one class of errors is told over HTTP.

    Attributes:
        status: the HTTP status.
        type: the envelope's `type`, with OpenAI's names.
        retry: False tells OpenAI's client not to send the whole file again.
    """

    status: int
    type: str
    retry: bool = True


TABLE: dict[type[ServiceError], Answer] = {
    InvalidRequest: Answer(400, INVALID_REQUEST),
    Unauthorized: Answer(401, INVALID_REQUEST),
    ModelNotFound: Answer(404, INVALID_REQUEST),
    RequestTimeout: Answer(408, INVALID_REQUEST, retry=False),
    PayloadTooLarge: Answer(413, INVALID_REQUEST),
    EngineBusy: Answer(429, RATE_LIMIT),
    Unavailable: Answer(503, SERVER_ERROR),
    DecodingFailed: Answer(500, SERVER_ERROR, retry=False),
    DeadlineExceeded: Answer(504, SERVER_ERROR, retry=False),
    ServiceError: Answer(500, SERVER_ERROR, retry=False),
}
"""The most specific class of an error decides."""

_CODES = {404: "not_found", 405: "method_not_allowed", 413: PayloadTooLarge.code}


class ClientDisconnected(Exception):
    """The client left: there is nobody to answer."""


def answer_to(error: ServiceError) -> Answer:
    """Return the row of the table for an error."""
    return next(TABLE[kind] for kind in type(error).__mro__ if kind in TABLE)


def envelope(message: str, kind: str, *, param: str | None, code: str | None) -> dict[str, Any]:
    """Return the body of an answer that is not a success."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_body(error: BaseException) -> dict[str, Any]:
    """Return the envelope of any error; what is not ours says nothing about its cause."""
    if isinstance(error, ServiceError):
        kind = answer_to(error).type
        return envelope(error.message, kind, param=error.param, code=error.code)
    return envelope("an unexpected error", SERVER_ERROR, param=None, code=ServiceError.code)


def error_response(error: BaseException) -> JSONResponse:
    """Return the HTTP answer to any error."""
    if not isinstance(error, ServiceError):
        return JSONResponse(error_body(error), 500, {"x-should-retry": "false"})
    answer = answer_to(error)
    headers = {} if answer.retry else {"x-should-retry": "false"}
    if isinstance(error, Unauthorized):
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, Unavailable):
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
        headers["retry-after-ms"] = str(max(1, round(1000 * error.retry_after_s)))
        headers["x-should-retry"] = "true"
    return JSONResponse(error_body(error), answer.status, headers)


def install(app: FastAPI) -> None:
    """Give every error of the app the envelope."""
    app.add_exception_handler(ServiceError, _on_service_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_validation_error)


async def _on_service_error(request: Request, error: Exception) -> JSONResponse:
    request.scope["state"][REFUSAL] = error
    return error_response(error)


async def _on_http_exception(request: Request, error: Exception) -> JSONResponse:
    """Answer what the framework raises itself: no such path, no such method."""
    assert isinstance(error, HTTPException)  # noqa: S101 - it is registered for no other
    status = 400 if error.status_code == HTTPStatus.UNPROCESSABLE_ENTITY else error.status_code
    message = str(error.detail)
    if status == HTTPStatus.NOT_FOUND:
        message = f"there is nothing at {request.scope['path']}"
    elif status == HTTPStatus.METHOD_NOT_ALLOWED:
        message = f"{request.method} is not possible at {request.scope['path']}"
    kind = INVALID_REQUEST if status < HTTPStatus.INTERNAL_SERVER_ERROR else SERVER_ERROR
    body = envelope(message, kind, param=None, code=_CODES.get(status))
    return JSONResponse(body, status, error.headers)


async def _on_validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - it is registered for no other
    first = error.errors()[0]
    refused = InvalidRequest(str(first["msg"]), param=str(first["loc"][-1]))
    request.scope["state"][REFUSAL] = refused
    return error_response(refused)
