"""Who finds no place and keeps its connection, over raw connections: the app is not asked."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Self

import pytest

from service.api.middleware import RequestScope
from service.protocol import BoundedProtocol
from tests.api.gated import gated_server
from tests.api.live import DEADLINE_S, Limits, LiveServer, Parts, noise, until, wav

SHORT = wav(noise(0.5))
HEAD = (
    "POST /transcribe?stream=false&language=en HTTP/1.1\r\nhost: x\r\n"
    f"content-length: {len(SHORT)}\r\n\r\n"
).encode()
POST = HEAD + SHORT
HEADER_TIMEOUT_S = 0.5


@pytest.fixture
def full(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveServer]:
    """A server whose one place is taken for as long as the test lasts, and whose heads are due."""
    monkeypatch.setattr(BoundedProtocol, "header_timeout_s", HEADER_TIMEOUT_S)
    with (
        gated_server(parts, Limits(max_requests=1)) as (live, gate),
        socket.create_connection(("127.0.0.1", live.port), timeout=DEADLINE_S) as holder,
    ):
        holder.sendall(POST)
        until(lambda: live.engine.stats()["requests"] == 1, "the place is taken")
        yield live
        gate.set()
        assert holder.recv(65_536).startswith(b"HTTP/1.1 200 ")
        holder.close()
        live.until_idle()


@pytest.fixture
def unheard(full: LiveServer, monkeypatch: pytest.MonkeyPatch) -> LiveServer:
    """The same, with an app that must not be asked."""

    async def unreached(*_: object) -> None:
        raise AssertionError("the app is asked")

    monkeypatch.setattr(RequestScope, "__call__", unreached)
    return full


class Line:
    """A raw connection."""

    def __init__(self, live: LiveServer) -> None:
        self.socket = socket.create_connection(("127.0.0.1", live.port), timeout=DEADLINE_S)
        self.file = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.socket.close()

    def answer(self) -> tuple[int, dict[bytes, bytes], bytes]:
        """Read one answer that says how long it is -> status, headers, body."""
        status = int(self.file.readline().split()[1])
        headers = {}
        while (line := self.file.readline()) != b"\r\n":
            name, _, value = line.partition(b":")
            headers[name.lower()] = value.strip()
        return status, headers, self.file.read(int(headers[b"content-length"]))


def test_it_is_refused_at_its_head_and_can_come_again(unheard: LiveServer) -> None:
    with Line(unheard) as line:
        for _ in range(3):
            line.socket.sendall(HEAD)
            status, headers, body = line.answer()
            assert status == 429
            assert b"queue_full" in body
            assert headers[b"retry-after"].isdigit()
            assert {b"date", b"x-request-id", b"content-type"} <= headers.keys()
            assert b"connection" not in headers
            line.socket.sendall(SHORT[:1000])
            line.socket.sendall(SHORT[1000:])


def test_it_finds_a_place_once_there_is_one(parts: Parts) -> None:
    with (
        gated_server(parts, Limits(max_requests=1)) as (live, gate),
        Line(live) as holder,
        Line(live) as line,
    ):
        holder.socket.sendall(POST)
        until(lambda: live.engine.stats()["requests"] == 1, "the place is taken")
        for n in (1, 2):
            line.socket.sendall(POST)
            assert line.answer()[0] == 429
            assert live.metric("earshot_requests_rejected_total", reason="queue_full") == n
        line.socket.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
        assert line.answer()[0] == 200
        gate.set()
        assert holder.answer()[0] == 200
        line.socket.sendall(POST)
        assert line.answer()[0] == 200


def test_many_in_one_piece_are_refused_in_turn(full: LiveServer) -> None:
    posts = [HEAD.replace(b"host", b"x-request-id: %d\r\nhost" % n) + SHORT for n in range(8)]
    with Line(full) as line:
        line.socket.sendall(b"".join(posts))
        for n in range(8):
            status, headers, _ = line.answer()
            assert (status, headers[b"x-request-id"]) == (429, b"%d" % n)


def test_who_is_answered_already_is_not_overtaken(full: LiveServer) -> None:
    with Line(full) as line:
        line.socket.sendall(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n" + POST)
        assert [line.answer()[0] for _ in range(2)] == [200, 429]


def test_the_rest_of_its_body_is_waited_for_as_long_as_for_a_head(unheard: LiveServer) -> None:
    began_at = time.monotonic()
    with Line(unheard) as line:
        line.socket.sendall(HEAD + SHORT[:100])
        assert line.answer()[0] == 429
        assert line.file.read() == b""  # closed
        assert time.monotonic() - began_at >= HEADER_TIMEOUT_S


def test_what_is_no_request_after_it_is_told_so(unheard: LiveServer) -> None:
    with Line(unheard) as line:
        line.socket.sendall(POST)
        assert line.answer()[0] == 429
        line.socket.sendall(b"no http\r\n\r\n")
        status, _, body = line.answer()
        assert status == 400
        assert b"invalid_http" in body
