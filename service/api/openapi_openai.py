"""What the schema says of OpenAI's audio routes. Text and data only."""

from __future__ import annotations

from typing import Any

from service.api.form_schema import Schema, form_properties, sse_schema
from service.api.openai_options import ALIASES, OpenAIOptions, TranslationOptions
from service.api.openapi import TIMEOUT
from service.api.openapi_errors import UPLOADS

_EVENTS = """Each event is one line of JSON, `data: {...}`, with its name as `type`; the last line
is `data: [DONE]`. Lines that begin with a colon are comments that keep the connection alive.

- `transcript.text.delta` {delta}, and {logprobs} if asked for; the deltas, joined, are the text
- `transcript.text.done` {text, usage, languages, logprobs, task, language, duration,
  segments, words}
- `error` {error: {message, type, param, code}}, the last event where something failed"""
_EXAMPLE_EVENTS = """data: {"type":"transcript.text.delta","delta":"zero three five one"}

data: {"type":"transcript.text.done","text":"zero three five one", ...}

data: [DONE]

"""
_NUMBER: Schema = {"type": "number"}
_INTEGER: Schema = {"type": "integer"}
_STRING: Schema = {"type": "string"}


def _object(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    return {
        "type": "object",
        "required": list(required),
        "properties": required | (optional or {}),
    }


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


_LOGPROB = _object({"token": _STRING, "bytes": _list(_INTEGER), "logprob": _NUMBER})
_TOKENS = _object(
    {
        "type": {"const": "tokens"},
        "input_tokens": _INTEGER,
        "output_tokens": _INTEGER,
        "total_tokens": _INTEGER,
        "input_token_details": _object({"audio_tokens": _INTEGER, "text_tokens": _INTEGER}),
    }
)
_DURATION = _object({"type": {"const": "duration"}, "seconds": _NUMBER})
_SEGMENT = _object(
    {
        "id": _INTEGER,
        "seek": _INTEGER,
        "start": _NUMBER,
        "end": _NUMBER,
        "text": _STRING,
        "tokens": _list(_INTEGER),
        "temperature": _NUMBER,
        "avg_logprob": _NUMBER,
        "compression_ratio": _NUMBER,
        "no_speech_prob": _NUMBER,
    }
)
_WORD = _object({"word": _STRING, "start": _NUMBER, "end": _NUMBER})
_PLAIN = _object(
    {"text": _STRING, "usage": _TOKENS},
    {"languages": _list(_object({"code": _STRING})), "logprobs": _list(_LOGPROB)},
)
_VERBOSE = _object(
    {
        "task": {"type": "string", "enum": ["transcribe", "translate"]},
        "language": _STRING,
        "duration": _NUMBER,
        "text": _STRING,
        "usage": _DURATION,
    },
    {"segments": _list(_SEGMENT), "words": _list(_WORD)},
)
_TEXT_TYPES = {
    "text/plain": "zero three five one\n",
    "application/x-subrip": "1\n00:00:00,000 --> 00:00:01,460\nzero three five one\n\n",
    "text/vtt": "WEBVTT\n\n00:00:00.000 --> 00:00:01.460\nzero three five one\n\n",
    "text/tab-separated-values": "start\tend\ttext\n0\t1460\tzero three five one\n",
}
_EXAMPLE = {
    "text": "zero three five one",
    "usage": {
        "type": "tokens",
        "input_tokens": 78,
        "input_token_details": {"audio_tokens": 77, "text_tokens": 1},
        "output_tokens": 7,
        "total_tokens": 85,
    },
    "languages": [{"code": "en"}],
}


def _route(options: type[OpenAIOptions]) -> dict[str, Any]:
    sent_as = {name: sent for sent, name in ALIASES.items()}
    audio = {"type": "string", "format": "binary", "description": "the recording"}
    form = {
        "type": "object",
        "required": ["file", "model"],
        "properties": {"file": audio, **form_properties(options, sent_as)},
        "additionalProperties": False,
    }
    content: dict[str, Any] = {
        "application/json": {"schema": {"anyOf": [_PLAIN, _VERBOSE]}, "example": _EXAMPLE},
        "text/event-stream": {"schema": sse_schema(_EVENTS), "example": _EXAMPLE_EVENTS},
    }
    for media_type, example in _TEXT_TYPES.items():
        content[media_type] = {"schema": {"type": "string"}, "example": example}
    described = "the transcript in `response_format`, or with `stream=true` its events"
    return {
        "openapi_extra": {
            "requestBody": {
                "required": True,
                "content": {"multipart/form-data": {"schema": form}},
            },
            "parameters": [TIMEOUT],
        },
        "responses": {200: {"description": described, "content": content}, **UPLOADS},
    }


TRANSCRIPTIONS = _route(OpenAIOptions)
"""Keyword arguments of `/v1/audio/transcriptions`."""
TRANSLATIONS = _route(TranslationOptions)
"""Keyword arguments of `/v1/audio/translations`."""
