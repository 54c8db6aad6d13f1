"""What `/openapi.json` says is what the service does."""

from __future__ import annotations

from typing import Any

import pytest
from jsonschema import Draft202012Validator

from service.api.openapi_events import EVENTS, EXAMPLE
from service.api.schemas import TranscribeOptions
from tests.api.live import LiveServer, assert_envelope, events_of, noise, wav

RECORDING = wav(noise(5.0))


@pytest.fixture
def operation(live: LiveServer) -> dict[str, Any]:
    described: dict[str, Any] = live.client.get("/openapi.json").json()
    operation: dict[str, Any] = described["paths"]["/transcribe"]["post"]
    return operation


def assert_valid(event: dict[str, Any]) -> None:
    schema = {**EVENTS[event["type"]], "additionalProperties": False}
    Draft202012Validator(schema).validate(event)


def test_real_events_are_as_described(live: LiveServer, operation: dict[str, Any]) -> None:
    content = operation["responses"]["200"]["content"]
    assert content["text/event-stream"]["x-events"] == EVENTS
    events = live.events(RECORDING, temperature=0)
    assert {"started", "language", "token", "done"} <= {event["type"] for event in events}
    for event in events:
        assert_valid(event)
    whole = live.transcribe(RECORDING, stream=False, language="en").json()
    Draft202012Validator(content["application/json"]["schema"]).validate(whole)


def test_the_examples_are_as_described(operation: dict[str, Any]) -> None:
    for event in EXAMPLE:
        assert_valid(event)
    content = operation["responses"]["200"]["content"]
    assert events_of(content["text/event-stream"]["example"]) == EXAMPLE
    assert (
        "".join(event.get("text", "") for event in EXAMPLE if event["type"] == "token").strip()
        == (EXAMPLE[-1]["text"])
    )


def test_a_refusal_is_as_described(live: LiveServer, operation: dict[str, Any]) -> None:
    refused = live.transcribe(b"text")
    assert_envelope(refused, 400)
    schema = operation["responses"]["400"]["content"]["application/json"]["schema"]
    Draft202012Validator(schema).validate(refused.json())


def test_every_option_is_described_once_for_forms_and_once_for_queries(
    operation: dict[str, Any],
) -> None:
    form = operation["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    query = {p["name"]: p for p in operation["parameters"] if p["in"] == "query"}
    assert set(form) == {"file", *TranscribeOptions.model_fields}
    assert set(query) == set(TranscribeOptions.model_fields)
    for parameter in query.values():
        assert "default" not in parameter["schema"], "it would be filled in, and sent twice"
