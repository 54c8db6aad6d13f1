"""Keys, other origins, and errors that the framework and the server raise themselves."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import openai
import pytest

from service.api.keys import ApiKeys
from tests.api.live import (
    DEADLINE_S,
    Limits,
    LiveServer,
    Parts,
    assert_envelope,
    noise,
    services_of,
    wav,
)

SHORT = wav(noise(0.5))
KEYS = ("key-of-ann", "key-of-bob")
ORIGIN = "https://app.example"
OPEN = {"/livez", "/health", "/readyz", "/metrics"}
"""In the schema; the page, /docs and the schema itself are open too, and not in it."""


@pytest.fixture(scope="module")
def locked(parts: Parts) -> Iterator[LiveServer]:
    api = {"api_keys": ApiKeys(KEYS), "cors_origins": (ORIGIN,)}
    with LiveServer(services_of(parts, Limits(api=api))) as live:
        yield live


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def test_every_route_asks_for_a_key_but_those_that_machines_need(locked: LiveServer) -> None:
    schema = locked.client.get("/openapi.json").json()
    asked = set()
    for path, operations in schema["paths"].items():
        for method in operations:
            response = locked.client.request(method, path.replace("{model_id}", "whisper-1"))
            if response.status_code == 401:
                asked.add(path)
    assert asked == set(schema["paths"]) - OPEN
    assert {"/transcribe", "/v1/audio/transcriptions", "/v1/models"} <= asked


@pytest.mark.parametrize("path", ["/livez", "/healthz", "/readyz", "/ping", "/metrics", "/docs"])
def test_probes_metrics_and_documentation_are_open(locked: LiveServer, path: str) -> None:
    assert locked.client.get(path).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer"},
        bearer("key-of-eve"),
        bearer("key-of-an"),
        {"authorization": KEYS[0]},
        {"authorization": f"Basic {KEYS[0]}"},
        {"x-api-key": KEYS[0]},
        {"host": "127.0.0.1", "x-forwarded-for": "127.0.0.1"},
    ],
)
def test_without_a_key_of_the_service_it_is_a_401(
    locked: LiveServer, headers: dict[str, str]
) -> None:
    for path in ("/transcribe", "/v1/audio/transcriptions"):
        response = locked.client.post(path, files={"file": SHORT}, headers=headers)
        error = assert_envelope(response, 401)
        assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
        assert response.headers["www-authenticate"] == "Bearer"
        assert "key-of-" not in response.text


@pytest.mark.parametrize("key", KEYS)
def test_each_key_opens_the_routes(locked: LiveServer, key: str) -> None:
    response = locked.client.post("/transcribe", files={"file": SHORT}, headers=bearer(key))
    assert response.status_code == 200
    assert locked.client.get("/v1/models", headers=bearer(key)).status_code == 200


def test_the_key_is_that_of_the_official_client(locked: LiveServer) -> None:
    base_url = f"{locked.url}/v1"
    with openai.OpenAI(base_url=base_url, api_key=KEYS[1]) as client:
        assert client.audio.transcriptions.create(model="whisper-1", file=SHORT).usage
    with (
        openai.OpenAI(base_url=base_url, api_key="another") as client,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        client.audio.transcriptions.create(model="whisper-1", file=SHORT)
    assert caught.value.code == "invalid_api_key"


def test_who_has_no_key_is_told_so_before_the_body_is_read(locked: LiveServer) -> None:
    head = b"POST /transcribe HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", locked.port), timeout=DEADLINE_S) as connection:
        connection.sendall(head)
        assert connection.recv(12) == b"HTTP/1.1 401"


def test_a_page_of_an_origin_that_is_set_may_read_answers(locked: LiveServer) -> None:
    asks = {
        "origin": ORIGIN,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,x-request-timeout",
    }
    preflight = locked.client.options("/transcribe", headers=asks)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == ORIGIN
    for headers in (bearer(KEYS[0]), {}):
        answer = locked.client.get("/v1/models", headers={"origin": ORIGIN} | headers)
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert "x-request-id" in answer.headers["access-control-expose-headers"]


def test_no_other_origin_may_read_answers(locked: LiveServer, live: LiveServer) -> None:
    for server, origin in ((locked, "https://other.example"), (live, ORIGIN)):
        answer = server.client.get("/livez", headers={"origin": origin})
        assert not [name for name in answer.headers if name.startswith("access-control-allow")]


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "GET", "OPTIONS"])
def test_the_frameworks_own_refusals_have_the_envelope(live: LiveServer, method: str) -> None:
    error = assert_envelope(live.client.request(method, "/v1/audio/transcriptions"), 405)
    assert error["code"] == "method_not_allowed"
    assert_envelope(live.client.request(method, "/v1/audio/nothing"), 404)


def test_a_head_request_is_answered_without_a_body(live: LiveServer) -> None:
    response = live.client.head("/v1/audio/nothing")
    assert (response.status_code, response.content) == (404, b"")
    assert response.headers["x-request-id"]
    assert json.loads(live.client.get("/v1/audio/nothing").text)["error"]["code"] == "not_found"
