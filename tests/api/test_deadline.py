"""`X-Request-Timeout` ends what is stuck, wherever it is stuck."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.api.gated import gated_server
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
from tests.api.test_leaving import decoding_children, stop_waiting_children

SHORT = wav(noise(0.5))
SOON = {"x-request-timeout": "0.4"}
"""For what never ends: it does not matter how slow the machine is."""
LATE_S = 50.0
LATE = {"x-request-timeout": f"{LATE_S}"}
"""For what has to come so far first; then the test lets the time pass."""


def post(
    live: LiveServer, headers: dict[str, str], audio: bytes = SHORT, *, stream: bool = False
) -> httpx.Response:
    options = {"language": "en", "stream": str(stream).lower()}
    return live.client.post("/transcribe", content=audio, params=options, headers=headers)


def let_pass(live: LiveServer, seconds: float) -> None:
    """Move the clock of the server's loop: what is due until then comes now."""
    time = live.loop.time
    live.loop.time = lambda: time() + seconds  # type: ignore[method-assign]
    live.loop.call_soon_threadsafe(lambda: None)


@pytest.mark.parametrize(
    "value", ["0", "0.0", "-1", "14401", "1e3", "soon", "", "nan", "inf", "1_0", "x" * 500]
)
def test_a_timeout_out_of_range_is_a_400_that_names_value_and_limit(
    live: LiveServer, value: str
) -> None:
    error = assert_envelope(post(live, {"x-request-timeout": value}), 400)
    assert (error["param"], error["code"]) == ("X-Request-Timeout", "invalid_value")
    assert repr(value[:40]) in error["message"]
    assert "14400" in error["message"]


def test_a_timeout_that_comes_twice_is_a_400(live: LiveServer) -> None:
    headers = [("x-request-timeout", "5"), ("x-request-timeout", "6")]
    response = live.client.post("/transcribe", content=SHORT, headers=headers)
    assert "more than once" in assert_envelope(response, 400)["message"]


@pytest.mark.parametrize("value", ["14400", "60.5"])
def test_a_request_that_is_through_in_time_is_answered(live: LiveServer, value: str) -> None:
    assert post(live, {"x-request-timeout": value}).json()["type"] == "done"


def test_an_upload_that_stalls_is_a_504(live: LiveServer) -> None:
    failures = live.metric("earshot_request_failures_total", reason="deadline_exceeded")
    head = (
        "POST /transcribe HTTP/1.1\r\nhost: x\r\ncontent-type: audio/wav\r\n"
        "content-length: 9999\r\nx-request-timeout: 0.4\r\n\r\nRIFF"
    )
    with socket.create_connection(("127.0.0.1", live.port), timeout=DEADLINE_S) as connection:
        connection.sendall(head.encode())
        answer = b""
        while not answer.endswith(b"}"):
            answer += connection.recv(65_536)
    assert answer.startswith(b"HTTP/1.1 504 ")
    assert b"x-should-retry: false" in answer
    assert b"deadline of 0.4 s" in answer
    live.until_idle()
    until(
        lambda: (
            live.metric("earshot_request_failures_total", reason="deadline_exceeded")
            == failures + 1
        ),
        "it is counted",
    )


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")
def test_audio_that_is_never_decoded_is_a_504_and_its_child_is_gone(parts: Parts) -> None:
    audio = wav(noise(1.0, rate=8_000), 8_000)
    with LiveServer(services_of(parts, Limits())) as live, ThreadPoolExecutor(1) as pool:
        stopped = stop_waiting_children(live)
        answer = pool.submit(post, live, LATE, audio)
        until(lambda: bool(live.services.audio_decoder._children._active), "a child has it")
        let_pass(live, LATE_S)
        assert assert_envelope(answer.result(), 504)["code"] == "deadline_exceeded"
        live.until_idle()
        until(lambda: not set(stopped) & set(decoding_children()), "the child is gone")
        assert live.transcribe(audio, language="en").status_code == 200


def test_json_that_is_never_there_is_a_504(parts: Parts) -> None:
    with gated_server(parts, Limits()) as (live, gate):
        error = assert_envelope(post(live, SOON), 504)
        assert (error["type"], error["code"]) == ("server_error", "deadline_exceeded")
        gate.set()
        live.until_idle()
        assert post(live, {}).json()["type"] == "done"


def test_a_stream_that_is_stuck_ends_with_an_error_event(parts: Parts) -> None:
    with gated_server(parts, Limits()) as (live, gate):
        with (
            live.client.stream(
                "POST", "/transcribe?language=en", content=SHORT, headers=LATE
            ) as running,
            live.client.stream(
                "POST", "/transcribe?language=en", content=SHORT, headers=LATE
            ) as queued,
        ):
            first, second = (stream_events(response) for response in (running, queued))
            assert [next(first)["type"] for _ in range(2)] == ["started", "token"]
            assert next(second)["type"] == "started"
            let_pass(live, LATE_S)
            for events in (first, second):
                (last,) = events
                assert last["error"]["code"] == "deadline_exceeded"
        assert live.engine.stats()["requests"] == 0, "the engine still stands still"
        gate.set()
        live.until_idle()
        assert live.events(SHORT, language="en")[-1]["type"] == "done"


def test_the_servers_maximum_holds_for_who_does_not_ask(parts: Parts) -> None:
    limits = Limits(api={"max_request_timeout_s": 0.4})
    with gated_server(parts, limits) as (live, _):
        assert_envelope(post(live, {}), 504)
        assert "at most 0.4" in assert_envelope(post(live, LATE), 400)["message"]
