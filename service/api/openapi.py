"""What the schema says of routes whose body FastAPI does not parse. Text and data only."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from service.api.deadline import HEADER
from service.api.form_schema import form_properties, sse_schema
from service.api.openapi_errors import UPLOADS
from service.api.openapi_events import EVENTS, EXAMPLE, as_stream
from service.api.schemas import DetectOptions, TranscribeOptions

_LIST = "\n".join(f"- `{name}`: {schema['description']}" for name, schema in EVENTS.items())
_TELLS = f"""Each event is `event: NAME` and a line of JSON `data` with `type` = NAME; the schema of
each is in `x-events`:

{_LIST}
- `error`: the object that a refusal has; the last event, where something failed

The texts of all tokens that no `retract` made void, joined and stripped, are the `text` of `done`.
Lines that begin with a colon are comments that keep the connection alive."""


TIMEOUT = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "description": "seconds that the request may take from its arrival to its end",
    "schema": {"type": "number", "exclusiveMinimum": 0},
}


_SAID = ("description", "examples")


def _parameters(kind: type[BaseModel]) -> list[dict[str, Any]]:
    """Return the options in the query: for raw bodies, as a form has them as its fields."""
    options = [
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": schema.get("description", ""),
            "schema": {key: value for key, value in schema.items() if key not in _SAID},
        }
        for name, schema in form_properties(kind).items()
    ]
    return [*options, TIMEOUT]


def _field(schema: dict[str, Any], default: object) -> dict[str, Any]:
    """Return the schema of a form's field: pages that show the form fill in what it means.

    Without a default they would fill in "string", the largest number, or yes.
    """
    if schema.get("type") == "string" and "enum" not in schema:
        return schema | {"examples": [""]}
    return schema | ({} if default is None else {"default": default})


def _request_body(kind: type[BaseModel]) -> dict[str, Any]:
    audio = {"type": "string", "format": "binary"}
    options = {
        name: _field(schema, kind.model_fields[name].default)
        for name, schema in form_properties(kind).items()
    }
    form = {"type": "object", "properties": {"file": audio, **options}, "required": ["file"]}
    raw = {"schema": audio}
    return {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": form},
            "audio/*": raw,
            "application/octet-stream": raw,
        },
    }


TRANSCRIBE: dict[str, Any] = {
    "openapi_extra": {
        "requestBody": _request_body(TranscribeOptions),
        "parameters": _parameters(TranscribeOptions),
    },
    "responses": {
        200: {
            "description": "the transcript: events, or with `stream=false` the `done` object",
            "content": {
                "text/event-stream": {
                    "schema": sse_schema(_TELLS),
                    "example": as_stream(EXAMPLE),
                    "x-events": EVENTS,
                },
                "application/json": {"schema": EVENTS["done"], "example": EXAMPLE[-1]},
            },
        },
        **UPLOADS,
    },
}
"""Keyword arguments of the route."""

_PROBABILITY = {"type": "number", "minimum": 0, "maximum": 1}
DETECT_LANGUAGE: dict[str, Any] = {
    "openapi_extra": {
        "requestBody": _request_body(DetectOptions),
        "parameters": _parameters(DetectOptions),
    },
    "responses": {
        200: {
            "description": "the likeliest language, and the probability of each",
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "required": ["language", "probability", "probabilities"],
                        "properties": {
                            "language": {"type": "string"},
                            "language_name": {"type": "string"},
                            "probability": _PROBABILITY,
                            "probabilities": {
                                "type": "object",
                                "additionalProperties": _PROBABILITY,
                            },
                            "duration_s": {"type": "number"},
                        },
                    }
                }
            },
        },
        **UPLOADS,
    },
}
"""The same, of `POST /detect-language`."""
