"""What the schema says of every route's errors. Text and data only."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

_MEANINGS = {
    400: ("the request cannot be served as it stands; `param` names the field", "invalid_value"),
    401: ("the service has keys, and the request has none of them", "invalid_api_key"),
    404: ("no such model, or no such path", "model_not_found"),
    405: ("the path is there, for another method", "method_not_allowed"),
    408: ("the body did not arrive, or was not decoded, in time", "request_timeout"),
    413: ("more bytes than an upload may have", "payload_too_large"),
    429: ("the queue is full: come back after `Retry-After` seconds", "queue_full"),
    500: ("our fault; the other requests go on", "decoding_failed"),
    503: ("not now: starting, draining or dead", "starting"),
    504: ("not through within `X-Request-Timeout` seconds", "deadline_exceeded"),
}
_TYPES = {429: "rate_limit_error", 500: "server_error", 503: "server_error", 504: "server_error"}
_STRING_OR_NULL = {"type": ["string", "null"]}
_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "additionalProperties": False,
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "additionalProperties": False,
            "properties": {
                "message": {"type": "string", "minLength": 1},
                "type": {
                    "type": "string",
                    "enum": ["invalid_request_error", "rate_limit_error", "server_error"],
                },
                "param": _STRING_OR_NULL,
                "code": _STRING_OR_NULL,
            },
        }
    },
}


def _response(status: int) -> dict[str, Any]:
    meaning, code = _MEANINGS[status]
    kind = _TYPES.get(status, "invalid_request_error")
    example = {"error": {"message": "...", "type": kind, "param": None, "code": code}}
    content = {"application/json": {"schema": _SCHEMA, "example": example}}
    if status not in (429, 503):
        return {"description": meaning, "content": content}
    seconds = {
        "description": "seconds to wait",
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
    }
    return {"description": meaning, "content": content, "headers": {"Retry-After": seconds}}


EVERYWHERE: dict[int | str, dict[str, Any]] = {
    status: _response(status) for status in (400, 401, 404, 405, 500, 503)
}
"""Errors that any route may answer with."""
UPLOADS: dict[int | str, dict[str, Any]] = {
    status: _response(status) for status in (408, 413, 429, 504)
}
"""Those of routes that take audio, beside them."""


def without_422(app: FastAPI) -> None:
    """Take FastAPI's own validation error out of the schema: it is a 400 here, as everything is."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = generate()
            for operations in schema["paths"].values():
                for operation in operations.values():
                    operation["responses"].pop("422", None)
            components = schema.get("components", {})
            for name in ("HTTPValidationError", "ValidationError"):
                components.get("schemas", {}).pop(name, None)
            if not components.get("schemas", True):
                del components["schemas"]
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]
