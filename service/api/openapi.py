"""What the schema says of routes whose body FastAPI does not parse. Text and data only."""

from __future__ import annotations

from typing import Any

from service.api.deadline import HEADER
from service.api.form_schema import sse_schema
from service.api.openapi_errors import UPLOADS
from service.api.schemas import TranscribeOptions

_EVENTS = """Each event is `event: NAME` and one line of JSON `data` with `type` = NAME:

- `started` {id, model, duration_s}
- `language` {language, probability, window}, where it was detected
- `token` {index, window, attempt, token_id, text, logprob}, and `timestamp_s` for a timestamp
- `retract` {window, from_index, reason}: tokens from that index on are void
- `segment` {id, window, seek, start_s, end_s, text, tokens, temperature, avg_logprob,
  compression_ratio, no_speech_prob, attempts, language}
- `done` {id, model, text, language, language_probability, duration_s, segments,
  coverage, uncovered, usage, timings}
- `error` {error: {message, type, param, code}}, the last event where something failed

Lines that begin with a colon are comments that keep the connection alive."""


TIMEOUT = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "description": "seconds that the request may take from its arrival to its end",
    "schema": {"type": "number", "exclusiveMinimum": 0},
}


def _options_schema() -> dict[str, dict[str, Any]]:
    """Return the schema of each option: one that may be left out is not null on the wire."""
    properties = TranscribeOptions.model_json_schema()["properties"]
    return {name: _without_null(schema) for name, schema in properties.items()}


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    given = {key: value for key, value in schema.items() if key not in ("anyOf", "title")}
    for kind in schema.get("anyOf", ()):
        given |= kind if kind != {"type": "null"} else {}
    if given.get("default", "") is None:
        del given["default"]
    return given


def _parameters() -> list[dict[str, Any]]:
    """Return the options in the query, for raw bodies: without defaults, which a form has too."""
    options = [
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": f"{schema.get('description', '')} (not beside the same in a form)",
            "schema": {
                key: value for key, value in schema.items() if key not in ("description", "default")
            },
        }
        for name, schema in _options_schema().items()
    ]
    return [*options, TIMEOUT]


def _request_body() -> dict[str, Any]:
    audio = {"type": "string", "format": "binary"}
    form = {"type": "object", "properties": {"file": audio, **_options_schema()}}
    raw = {"schema": audio}
    return {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": {**form, "required": ["file"]}},
            "audio/*": raw,
            "application/octet-stream": raw,
        },
    }


TRANSCRIBE: dict[str, Any] = {
    "openapi_extra": {"requestBody": _request_body(), "parameters": _parameters()},
    "responses": {
        200: {
            "description": "the transcript: events, or with `stream=false` the `done` object",
            "content": {
                "text/event-stream": {"schema": sse_schema(_EVENTS)},
                "application/json": {"schema": {"type": "object"}},
            },
        },
        **UPLOADS,
    },
}
"""Keyword arguments of the route."""
