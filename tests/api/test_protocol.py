"""HTTP itself, well-formed and not, over raw connections."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from functools import partial

import pytest

from service.protocol import MAX_HEAD_BYTES, MAX_QUEUED
from tests.api.gated import gated_server
from tests.api.live import DEADLINE_S, Limits, LiveServer, Parts, events_of, noise, until, wav

SHORT = wav(noise(0.5))
POST = "POST /transcribe?stream=false&language=en HTTP/1.1\r\nhost: x\r\n"
LENGTH = f"content-length: {len(SHORT)}\r\n"
STREAM = POST.replace("stream=false", "stream=true")
CHUNKED = (POST + "transfer-encoding: chunked\r\n\r\n").encode()
CHUNK = f"{len(SHORT):x}\r\n".encode() + SHORT + b"\r\n"
LIVEZ = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n"
CLOSE = b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


MALFORMED = {
    "a length and chunks": (POST + LENGTH + "transfer-encoding: chunked\r\n\r\n").encode() + CHUNK,
    "two lengths": (POST + LENGTH + "content-length: 1\r\n\r\n").encode() + SHORT,
    "a chunk of no length": CHUNKED + b"no length\r\n" + SHORT,
    "a chunk of less than nothing": CHUNKED + b"-5\r\n" + SHORT,
    "no host": b"GET /livez HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /livez HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n",
    "two hosts for HTTP/1.0": b"GET /livez HTTP/1.0\r\nhost: x\r\nhost: y\r\n\r\n",
    "HTTP/2.0": b"GET /livez HTTP/2.0\r\nhost: x\r\n\r\n",
    "no version": b"GET /livez\r\n\r\n",
    "a length of 5000 digits": (POST + f"content-length: {5:05000}\r\n\r\nhello").encode(),
    "a space in a name": b"GET /livez HTTP/1.1\r\nhost : x\r\n\r\n",
    "a zero in a header": b"GET /livez HTTP/1.1\r\nhost: x\r\nx: \x00\r\n\r\n",
    "bare line feeds": b"GET /livez HTTP/1.1\nhost: x\n\n",
    "a path that is not ASCII": b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n",
    "no method": b"NO-METHOD / HTTP/1.1\r\nhost: x\r\n\r\n",
    "a tunnel": b"CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n",
}


def said(live: LiveServer, *pieces: bytes) -> bytes:
    """Send pieces, and return all that comes until the service closes the connection."""
    answer = b""
    with socket.create_connection(("127.0.0.1", live.port), timeout=DEADLINE_S) as connection:
        with contextlib.suppress(ConnectionError):  # it may be closed before everything is sent
            for piece in pieces:
                connection.sendall(piece)
        with contextlib.suppress(ConnectionResetError):
            while piece := connection.recv(65_536):
                answer += piece
    return answer


def statuses(answer: bytes) -> list[int]:
    return [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]


def endless(start: bytes, line: bytes) -> Iterator[bytes]:
    """Yield a beginning, and then lines up to eight times what a head may have."""
    yield start
    for _ in range(8):
        yield line * (MAX_HEAD_BYTES // len(line))


@pytest.mark.parametrize(
    ("start", "line"),
    [
        (LIVEZ[:-2], b"x-many: 1\r\n"),
        (LIVEZ[:-2] + b"x-long: ", b"1"),
        (b"GET /", b"a"),
        (CHUNKED + CHUNK + b"0\r\n", b"x-many: 1\r\n"),
        (CHUNKED + CHUNK + b"0\r\nx-long: ", b"1"),
        (CHUNKED + CHUNK + b"1;", b"x"),
    ],
    ids=["headers", "a header", "a path", "trailers", "a trailer", "an extension of a chunk"],
)
def test_what_has_no_end_is_refused_where_it_passes_the_limit(
    live: LiveServer, start: bytes, line: bytes
) -> None:
    answer = said(live, *endless(start, line))
    # A reset connection may lose the answer, but it is never kept.
    assert statuses(answer) in ([400], [])
    if answer:
        assert f"over {MAX_HEAD_BYTES} bytes".encode() in answer


def test_a_head_just_under_the_limit_is_read(live: LiveServer) -> None:
    filled = CLOSE[:-2] + b"x-long: " + b"1" * (MAX_HEAD_BYTES - 200) + b"\r\n\r\n"
    assert statuses(said(live, filled)) == [200]


def test_a_body_in_tiny_chunks_is_no_long_head(live: LiveServer) -> None:
    tiny = b"".join(b"1\r\n%c\r\n" % byte for byte in SHORT)
    assert len(tiny) > MAX_HEAD_BYTES
    answer = said(live, CHUNKED, tiny, b"0\r\n\r\n", CLOSE)
    assert statuses(answer) == [200, 200]
    assert b'"duration_s":0.5,' in answer


def test_what_follows_a_body_is_no_header(live: LiveServer) -> None:
    head = CHUNKED[:-2] + b"x-request-id: head\r\n\r\n"
    answer = said(live, head, CHUNK, b"0\r\nx-request-id: trailer\r\n\r\n", CLOSE)
    assert statuses(answer) == [200, 200]
    assert b"x-request-id: head\r\n" in answer
    assert b"x-request-id: trailer" not in answer


def test_requests_in_one_piece_are_answered_in_turn(live: LiveServer) -> None:
    together = (POST + LENGTH + "\r\n").encode() + SHORT + LIVEZ + CLOSE
    answer = said(live, together)
    assert statuses(answer) == [200, 200, 200]
    assert answer.index(b'"duration_s":0.5,') < answer.index(b'"status":"ready"')


def test_a_stream_ends_before_what_follows_it_is_refused(live: LiveServer) -> None:
    answer = said(live, (STREAM + LENGTH + "\r\n").encode() + SHORT + b"no http\r\n\r\n")
    assert statuses(answer) == [200, 400]
    assert answer.index(b"event: done") < answer.index(b"HTTP/1.1 400")


def test_the_first_version_of_http_needs_no_host(live: LiveServer) -> None:
    assert statuses(said(live, b"GET /livez HTTP/1.0\r\n\r\n")) == [200]


def test_the_first_version_of_http_is_not_told_to_continue(live: LiveServer) -> None:
    head = POST.replace("/1.1", "/1.0") + "expect: 100-continue\r\n" + LENGTH + "\r\n"
    assert statuses(said(live, head.encode() + SHORT)) == [200]


def test_an_answer_that_is_queued_comes_before_the_refusal(live: LiveServer) -> None:
    together = (POST + LENGTH + "\r\n").encode() + SHORT + LIVEZ + b"no http\r\n\r\n"
    assert statuses(said(live, together)) == [200, 200, 400]


def test_more_requests_than_may_wait_are_refused(live: LiveServer) -> None:
    posted = (POST + LENGTH + "\r\n").encode() + SHORT
    answer = said(live, posted + LIVEZ * 1000)
    assert statuses(answer) == [200] * (1 + MAX_QUEUED) + [400]
    assert f"over {MAX_QUEUED} requests".encode() in answer


def test_a_thousand_offers_of_another_protocol_are_as_many_requests(live: LiveServer) -> None:
    offer = LIVEZ[:-2] + b"connection: upgrade\r\nupgrade: h2c\r\n\r\n"
    assert statuses(said(live, offer * 1000)) == [200] * (1 + MAX_QUEUED) + [400]


def test_an_offer_of_another_protocol_is_passed_over(live: LiveServer) -> None:
    """As Java's client makes it with every request, and curl with `--http2`."""
    offer = "connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n"
    posted = (POST + offer + LENGTH + "\r\n").encode()
    answer = said(live, posted, SHORT[:5_000], SHORT[5_000:], CLOSE)
    assert statuses(answer) == [200, 200]
    assert b'"duration_s":0.5,' in answer


@pytest.mark.parametrize(
    "wrong",
    [CHUNKED + b"no length\r\n" + SHORT, b"GET http://x HTTP/1.1\r\nhost: x\r\n\r\n"],
    ids=["its body", "its path"],
)
def test_a_queued_request_that_is_wrong_costs_nobody_an_answer(
    live: LiveServer, wrong: bytes
) -> None:
    began_at = time.monotonic()
    assert statuses(said(live, (POST + LENGTH + "\r\n").encode() + SHORT + wrong)) == [200, 400]
    assert time.monotonic() - began_at < live.services.config.body_idle_timeout_s


@pytest.mark.parametrize(
    "head",
    [
        POST + "connection: close, upgrade\r\n",
        POST.replace("/1.1", "/1.0") + "connection: upgrade\r\n",
    ],
    ids=["close", "1.0"],
)
def test_an_offer_that_is_the_last_request_is_answered(live: LiveServer, head: str) -> None:
    answer = said(live, (head + "upgrade: h2c\r\n" + LENGTH + "\r\n").encode() + SHORT)
    assert statuses(answer) == [200]
    assert b'"duration_s":0.5,' in answer


def test_a_stream_of_the_first_version_of_http_has_no_chunks(live: LiveServer) -> None:
    answer = said(live, (STREAM.replace("/1.1", "/1.0") + LENGTH + "\r\n").encode() + SHORT)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert b"connection: close" in head
    assert body.startswith(b"event: started\n")
    assert events_of(body.decode())[-1]["type"] == "done"


def test_who_leaves_with_another_request_queued_is_missed(parts: Parts) -> None:
    with gated_server(parts, Limits()) as (live, gate):
        gone = partial(live.metric, "earshot_requests_total", endpoint="/transcribe", status="499")
        with socket.create_connection(("127.0.0.1", live.port), timeout=DEADLINE_S) as connection:
            connection.sendall((STREAM + LENGTH + "\r\n").encode() + SHORT + LIVEZ)
            until(lambda: live.engine.stats()["requests"] == 1, "it runs")
            until(lambda: bool(connection.recv(1, socket.MSG_PEEK)), "something came")
        # Closed with bytes that it has not read, and so by a reset.
        until(lambda: gone(stream="true") == 1, "it is counted while the engine stands still")
        gate.set()
        live.until_idle()


@pytest.mark.parametrize("malformed", MALFORMED.values(), ids=MALFORMED)
def test_what_two_parsers_could_read_differently_is_refused(
    live: LiveServer, malformed: bytes
) -> None:
    answer = said(live, malformed)
    assert statuses(answer) == [400]
    assert b'"code": "invalid_http"' in answer
