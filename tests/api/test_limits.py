from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from service.api.keys import ApiKeys
from service.api.routes import openai, transcribe
from tests.api.gated import gated_server, held_server
from tests.api.live import (
    DEADLINE_S,
    Limits,
    LiveServer,
    Parts,
    assert_envelope,
    noise,
    services_of,
    stream_events,
    until,
    wav,
)

SHORT = wav(noise(0.5))
LONG = wav(noise(40.0))


@pytest.fixture(scope="module")
def strict(parts: Parts) -> Iterator[LiveServer]:
    limits = Limits(
        max_requests=2,
        max_audio_s=41.0,
        api={
            "max_upload_bytes": 1_400_000,
            "max_queue_audio_s": 200.0,
            "drain_bytes": 8_000_000,
            "drain_timeout_s": DEADLINE_S,
        },
    )
    with LiveServer(services_of(parts, limits)) as live:
        yield live


@pytest.fixture(scope="module")
def impatient(parts: Parts) -> Iterator[LiveServer]:
    limits = Limits(api={"body_timeout_s": 1.5, "body_idle_timeout_s": 0.7})
    with LiveServer(services_of(parts, limits)) as live:
        yield live


def test_a_body_over_the_limit_is_a_413(strict: LiveServer) -> None:
    error = assert_envelope(strict.transcribe(bytes(1_400_001)), 413)
    assert error["code"] == "payload_too_large"
    assert "1400001" in error["message"]
    assert "1400000" in error["message"]


def test_a_body_over_the_limit_that_says_no_length_is_a_413(strict: LiveServer) -> None:
    chunks = iter([bytes(100_000)] * 30)
    response = strict.client.post("/transcribe", content=chunks)
    assert_envelope(response, 413)


def test_a_refused_client_that_sends_everything_first_sees_why(strict: LiveServer) -> None:
    body = bytes(6_000_000)
    head = (
        "POST /transcribe HTTP/1.1\r\nhost: x\r\ncontent-type: audio/wav\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", strict.port), timeout=DEADLINE_S) as connection:
        connection.sendall(head.encode() + body)
        answer = b""
        while piece := connection.recv(65_536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer.lower()
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "payload_too_large"


def test_who_is_refused_for_want_of_room_keeps_the_connection_if_the_body_ends_soon(
    parts: Parts,
) -> None:
    limits = Limits(max_requests=1, api={"drain_bytes": 100_000})
    with ThreadPoolExecutor(1) as pool, held_server(parts, limits) as (live, hold):
        hold.after(1)
        running = pool.submit(live.events, SHORT, language="en")
        until(lambda: live.engine.stats()["requests"] == 1, "a request runs")
        small, large = bytes(100_000), bytes(100_001)
        for body in (small, large, iter([small])):
            refused = live.client.post("/transcribe", content=body)
            assert_envelope(refused, 429)
            assert ("connection" in refused.headers) == (body is not small)
        asked = live.client.post("/transcribe", content=small, headers={"expect": "100-continue"})
        assert_envelope(asked, 429)
        assert asked.headers["connection"] == "close"
        hold.release()
        assert running.result()[-1]["type"] == "done"


def test_one_file_over_its_maximum_is_a_400(strict: LiveServer) -> None:
    error = assert_envelope(strict.transcribe(wav(noise(42.0))), 400)
    assert error["code"] == "audio_too_long"


@pytest.mark.parametrize("pause_s", [0.1, 60.0], ids=["trickles", "stalls"])
def test_a_body_that_does_not_arrive_is_a_408(impatient: LiveServer, pause_s: float) -> None:
    head = b"POST /transcribe HTTP/1.1\r\nhost: x\r\ncontent-length: 9999\r\n\r\nRIFF"
    answer = b""
    with socket.create_connection(("127.0.0.1", impatient.port), timeout=pause_s) as connection:
        connection.sendall(head)
        while not answer.endswith(b"}"):
            try:
                answer += connection.recv(65_536)
            except TimeoutError:
                connection.sendall(b"x")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"x-should-retry: false" in answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_timeout"
    impatient.until_idle()


def test_a_refused_client_that_wants_no_more_is_not_cut_off(parts: Parts) -> None:
    """Closed with bytes that were not read, a connection is reset, and its answer may be lost."""
    with ThreadPoolExecutor(1) as pool, held_server(parts, Limits(max_requests=1)) as (live, hold):
        hold.after(1)
        running = pool.submit(live.events, SHORT, language="en")
        until(lambda: live.engine.stats()["requests"] == 1, "a request runs")
        with socket.create_connection(("127.0.0.1", live.port), timeout=DEADLINE_S) as connection:
            head = b"POST /transcribe HTTP/1.1\r\nhost: x\r\nconnection: close\r\n"
            connection.sendall(head + b"content-length: 2000\r\n\r\n" + bytes(1000))
            answer = b""
            while not answer.endswith(b"}"):
                answer += connection.recv(65_536)
            assert answer.startswith(b"HTTP/1.1 429 ")
            connection.settimeout(0.3)
            with pytest.raises(TimeoutError):
                connection.recv(1)
            connection.settimeout(DEADLINE_S)
            connection.sendall(bytes(1000))
            assert connection.recv(1) == b""
        hold.release()
        assert running.result()[-1]["type"] == "done"


def test_a_full_queue_is_a_429_that_says_when_to_come_back(parts: Parts) -> None:
    with ThreadPoolExecutor(2) as pool, held_server(parts, Limits(max_requests=2)) as (live, hold):
        hold.after(1)
        running = [pool.submit(live.events, SHORT, language="en") for _ in range(2)]
        until(lambda: live.engine.stats()["requests"] == 2, "two requests run")
        response = live.transcribe(SHORT)
        error = assert_envelope(response, 429)
        assert error["code"] == "queue_full"
        assert int(response.headers["retry-after"]) >= 1
        hold.release()
        assert [done.result()[-1]["type"] for done in running] == ["done", "done"]
        until(
            lambda: live.metric("earshot_requests_rejected_total", reason="queue_full") == 1,
            "it is counted",
        )
        assert live.transcribe(SHORT, language="en").status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/transcribe", "/detect-language", "/v1/audio/transcriptions", "/v1/audio/translations"],
)
def test_a_full_queue_is_told_to_pages_of_other_origins_and_who_has_a_key(
    parts: Parts, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreached(*_: object) -> None:
        raise AssertionError("it is refused before its route is looked for")

    origin, key = "https://app.example", {"authorization": "Bearer key"}
    api = {"cors_origins": (origin,), "api_keys": ApiKeys(["key"])}
    limits = Limits(max_requests=1, api=api)
    with ThreadPoolExecutor(1) as pool, held_server(parts, limits) as (live, hold):
        hold.after(1)
        url = "/transcribe?language=en&stream=false"
        running = pool.submit(live.client.post, url, content=SHORT, headers=key)
        until(lambda: live.engine.stats()["requests"] == 1, "a request runs")
        for routes in (transcribe, openai):
            monkeypatch.setattr(routes, "admit", unreached)
        headers = key | {"origin": origin, "x-request-id": "mine"}
        refused = live.client.post(path, files={"file": SHORT}, headers=headers)
        assert assert_envelope(refused, 429)["code"] == "queue_full"
        assert refused.headers["access-control-allow-origin"] == origin
        assert refused.headers["x-request-id"] == "mine"
        assert_envelope(live.client.post(path, files={"file": SHORT}), 401)
        counted = partial(live.metric, "earshot_requests_total", endpoint=path, stream="false")
        until(lambda: counted(status="429") == 1, "it is counted")
        hold.release()
        assert running.result().status_code == 200


def test_more_audio_than_the_budget_holds_is_a_429(parts: Parts) -> None:
    large = wav(noise(40.0))  # 20 s of the budget while it arrives
    arrives = threading.Event()

    def slowly() -> Iterator[bytes]:
        yield large[:-1]
        arrives.wait(DEADLINE_S)
        yield large[-1:]

    limits = Limits(api={"max_queue_audio_s": 25.0})
    with LiveServer(services_of(parts, limits)) as live, ThreadPoolExecutor(1) as pool:
        first = pool.submit(live.client.post, "/transcribe", content=slowly())
        held_s = partial(live.metric, "earshot_queue_audio_seconds")
        until(lambda: held_s() > 19.0, "the upload does not arrive")
        refused = live.transcribe(wav(noise(20.0, seed=1)))
        assert assert_envelope(refused, 429)["code"] == "queue_full"
        accepted = live.transcribe(SHORT)
        assert accepted.status_code == 200
        arrives.set()
        assert_envelope(first.result(), 429)
        live.until_idle()


def test_decoded_audio_counts_until_its_stream_ends(parts: Parts) -> None:
    limits = Limits(api={"max_queue_audio_s": 50.0})
    with gated_server(parts, limits) as (live, gate), ThreadPoolExecutor(1) as pool:
        with live.client.stream("POST", "/transcribe?language=en", content=wav(noise(30.0))) as one:
            events = stream_events(one)
            assert next(events)["type"] == "started"
            assert live.services.audio_budget.held_s == 30.0
            refused = pool.submit(live.transcribe, wav(noise(20.0, seed=1))).result()
            assert assert_envelope(refused, 429)["code"] == "queue_full"
            gate.set()
            assert list(events)[-1]["type"] == "done"
        live.until_idle()


def test_a_full_queue_answers_while_the_engine_stands_still(parts: Parts) -> None:
    with gated_server(parts, Limits(max_requests=1)) as (live, gate):
        with live.client.stream("POST", "/transcribe?language=en", content=SHORT) as one:
            events = stream_events(one)
            assert next(events)["type"] == "started"
            with ThreadPoolExecutor(5) as pool:
                refused = list(pool.map(live.transcribe, [LONG] * 5))
            gate.set()
            assert list(events)[-1]["type"] == "done"
        for response in refused:
            assert assert_envelope(response, 429)["code"] == "queue_full"
        live.until_idle()


@pytest.fixture(scope="module")
def single(parts: Parts) -> Iterator[LiveServer]:
    """A server with one place, which takes its time over what is left of a refused body."""
    api = {"max_upload_bytes": 100_000, "drain_timeout_s": DEADLINE_S}
    with LiveServer(services_of(parts, Limits(max_requests=1, api=api))) as live:
        yield live


@pytest.mark.parametrize("audio", [SHORT, SHORT[:20]], ids=["served", "refused"])
@pytest.mark.parametrize("stream", [True, False], ids=["events", "json"])
def test_who_has_been_answered_can_come_again_at_once(
    single: LiveServer, audio: bytes, stream: bool
) -> None:
    for _ in range(10):
        assert single.transcribe(audio, stream=stream).status_code != 429
        assert single.engine.stats()["requests"] == 0


def test_who_reads_its_last_event_finds_its_place_free(single: LiveServer) -> None:
    for _ in range(10):
        with single.client.stream("POST", "/transcribe", content=SHORT) as response:
            assert any(event["type"] == "done" for event in stream_events(response))
            assert single.engine.stats()["requests"] == 0
            assert single.services.audio_budget.held_s == 0


def test_a_refused_body_that_still_arrives_keeps_nobody_out(single: LiveServer) -> None:
    head = b"POST /transcribe HTTP/1.1\r\nhost: x\r\ncontent-length: 100001\r\n\r\nRIFF"
    with socket.create_connection(("127.0.0.1", single.port), timeout=DEADLINE_S) as connection:
        connection.sendall(head)
        answer = b""
        while not answer.endswith(b"}"):
            answer += connection.recv(65_536)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert single.transcribe(SHORT).status_code == 200
