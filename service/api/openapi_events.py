"""The events of `/transcribe` as JSON schemas, made from the classes that the events are.

Knows nothing about routes. `tests/api/test_openapi.py` holds real events against it.
"""

from __future__ import annotations

import json
from typing import Any, TypeAlias

from pydantic import TypeAdapter

from service.transcription.events import (
    Done,
    Event,
    LanguageDetected,
    Retract,
    SegmentEvent,
    Started,
    TokenEvent,
)

Schema: TypeAlias = dict[str, Any]

_COUNT: Schema = {"type": "integer", "minimum": 0}
_USAGE: Schema = {
    "type": "object",
    "properties": {
        "type": {"const": "tokens"},
        "input_tokens": _COUNT,
        "input_token_details": {
            "type": "object",
            "properties": {"audio_tokens": _COUNT, "text_tokens": _COUNT},
        },
        "output_tokens": _COUNT,
        "total_tokens": _COUNT,
    },
}
_MEANS: dict[type[Event], str] = {
    Started: "the audio is decoded",
    LanguageDetected: "the language was not given, and is detected",
    TokenEvent: "a token, as it is sampled; `text` may be empty",
    Retract: "the tokens from this index on are void",
    SegmentEvent: "a stretch of text is final",
    Done: "the whole transcript, at the end",
}


def _schema(event: type[Event]) -> Schema:
    """Return the schema of an event's data, without references."""
    made = TypeAdapter(event).json_schema(mode="serialization")
    kinds = made.pop("$defs", {})
    schema: Schema = _inlined(made, kinds)
    schema["description"] = _MEANS[event]
    schema["properties"] = {"type": {"const": event.type}} | schema["properties"]
    # What has a default may be left out: `timestamp_s` of a token, `words` of a segment.
    schema["required"] = ["type", *schema.get("required", [])]
    return schema


def _inlined(schema: Schema, kinds: dict[str, Schema]) -> Schema:
    """Return a schema with what it refers to in its place, and without docstrings."""
    if "$ref" in schema:
        return _inlined(kinds[schema["$ref"].rpartition("/")[2]], kinds)
    inlined: Schema = {}
    for key, value in schema.items():
        if key == "properties":  # whose names are not keywords
            inlined[key] = {name: _inlined(part, kinds) for name, part in value.items()}
        elif key in ("anyOf", "prefixItems"):
            inlined[key] = [_inlined(part, kinds) for part in value]
        elif key == "items":
            inlined[key] = _inlined(value, kinds)
        elif key not in ("default", "description", "title"):
            inlined[key] = value
    return inlined


EVENTS: dict[str, Schema] = {event.type: _schema(event) for event in _MEANS}
"""Name of an event -> schema of its data; `error` is the envelope of an error, with its `type`."""
EVENTS["done"]["properties"]["usage"] = _USAGE
EVENTS["done"]["properties"]["segments"]["items"]["properties"]["type"] = {"const": "segment"}

_SEGMENT: Schema = {
    "type": "segment", "id": 0, "window": 0, "seek": 0, "start_s": 0.0, "end_s": 1.46,
    "text": " zero three", "tokens": [309, 259, 269, 374], "temperature": 0.0,
    "avg_logprob": -0.35, "compression_ratio": 0.6, "no_speech_prob": 0.02, "attempts": 1,
    "language": "en",
}  # fmt: skip
EXAMPLE: list[Schema] = [
    {"type": "started", "id": "adcc2e17", "model": "builtin", "duration_s": 1.545},
    {"type": "language", "language": "en", "probability": 0.98, "window": 0},
    {"type": "token", "index": 0, "window": 0, "attempt": 0, "token_id": 309, "text": "",
     "logprob": -0.43, "timestamp_s": 0.0},
    {"type": "token", "index": 1, "window": 0, "attempt": 0, "token_id": 259, "text": " zero",
     "logprob": -0.12},
    {"type": "token", "index": 2, "window": 0, "attempt": 0, "token_id": 269, "text": " three",
     "logprob": -0.14},
    {"type": "token", "index": 3, "window": 0, "attempt": 0, "token_id": 374, "text": "",
     "logprob": -0.71, "timestamp_s": 1.46},
    _SEGMENT,
    {"type": "done", "id": "adcc2e17", "model": "builtin", "text": "zero three", "language": "en",
     "language_probability": 0.98, "duration_s": 1.545, "segments": [_SEGMENT],
     "coverage": 1.0, "uncovered": [],
     "usage": {"type": "tokens", "input_tokens": 79,
               "input_token_details": {"audio_tokens": 78, "text_tokens": 1},
               "output_tokens": 5, "total_tokens": 84},
     "timings": {"queue_ms": 1.2, "first_token_ms": 98.6, "total_ms": 172.8,
                 "realtime_factor": 8.94}},
]  # fmt: skip
"""A short transcription, event after event."""


def as_stream(events: list[Schema]) -> str:
    """Return events as they come over the wire."""
    return "".join(
        f"event: {event['type']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n"
        for event in events
    )
