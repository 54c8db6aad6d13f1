"""HTTP/1.1 with bounds: a head of a request that has an end, in bytes and in seconds.

uvicorn's protocol over httptools waits for the rest of a head for ever, and keeps as much of it as
comes. At the end of a head it asks whether the request is refused there (docs/adr/0020). Knows
nothing about what is asked for.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from enum import Enum, auto
from functools import partial
from typing import TYPE_CHECKING, NoReturn

import httptools
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from service.alarm import Alarm
from service.api.errors import error_body
from service.api.turn_away import Refusal, as_lines
from service.errors import InvalidRequest
from service.event_loop import has_unread

if TYPE_CHECKING:
    from uvicorn._types import (
        ASGI3Application,
        ASGIReceiveCallable,
        ASGISendCallable,
        ASGISendEvent,
        Scope,
    )

MAX_HEAD_BYTES = 65_536
"""Of a request line and headers; of what comes after a body, or between its chunks, too."""

MAX_QUEUED = 16
"""Requests on one connection that are read before the answer to another is through."""

MAX_DIGITS = 19
"""Of a `Content-Length`; Python reads no integer of thousands."""


AskAtDoor = Callable[[bytes, bytes, Sequence[tuple[bytes, bytes]]], Refusal | None]
"""(method, target, headers) of a request -> the answer if it is refused; None for the app."""


class _Reading(Enum):
    """What the next byte of a connection belongs to."""

    NOTHING = auto()  # until a request begins
    HEAD = auto()
    BODY = auto()


class BoundedProtocol(HttpToolsProtocol):
    """One connection.

    The deadline of a head runs from the opening of a connection, and on one that is kept open from
    the first byte of the next request. It runs too for what is left of a body that was answered
    before its end, which uvicorn passes over; afterwards the connection may be idle as any other.

    What is no HTTP gets a 400 with the words of the service's other errors, after the answers that
    are still owed to the requests before it.
    """

    header_timeout_s = 10.0
    door: AskAtDoor
    _alarm: Alarm
    """For what the other end owes: the rest of a head or of a body, or another request."""
    _reading = _Reading.NOTHING
    _unread = 0
    """Bytes since the last that were known to belong to a whole head or to a body."""
    _is_new = True
    """Whether no head has come yet."""
    _has_turned_away = False
    """Whether a request among what has just arrived was refused at the door: one is enough."""
    _passes_over = False
    """Whether the body that comes is that of a request that was refused at the door."""
    _is_idle = False
    """Whether the alarm is for the next request to begin."""
    _owed_refusal: str | None = None
    _answered: RequestResponseCycle | None = None
    """The request whose turn it is, or was last."""

    @classmethod
    def with_settings(cls, header_timeout_s: float, door: AskAtDoor) -> type[BoundedProtocol]:
        """Return the protocol of a server."""
        settings = {"header_timeout_s": header_timeout_s, "door": staticmethod(door)}
        return type("Protocol", (cls,), settings)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for the first head."""
        super().connection_made(transport)
        self._alarm = Alarm(self.loop)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        """Stop to wait once a whole head is there; otherwise wait for the rest of it."""
        if self._owed_refusal is not None:
            return
        self._unread += len(data)
        self._has_turned_away = False
        if self._is_idle or self.timeout_keep_alive_task is not None:
            self._unset_keepalive_if_required()
        self._feed(data)
        if self._unread > MAX_HEAD_BYTES:
            self.send_400_response(f"the head of a request is over {MAX_HEAD_BYTES} bytes long")
        if self._is_answering():
            self._alarm.clear()
        elif self._reading is _Reading.NOTHING and not self._is_new:
            if self.timeout_keep_alive_task is not None:
                self._unset_keepalive_if_required()
            self._alarm.set(self.timeout_keep_alive, self.timeout_keep_alive_handler)
            self._is_idle = True
        elif self._alarm.at is None:
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadline, and tell the app: uvicorn tells the newest request only."""
        self._alarm.close()
        if self._answered is not None and not self._answered.response_complete:
            self._answered.disconnected = True
            self._answered.message_event.set()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """Note that a head begins, unless too many requests wait before it."""
        if len(self.pipeline) >= MAX_QUEUED:
            self._stop_parsing(f"over {MAX_QUEUED} requests wait on one connection")
        self._reading = _Reading.HEAD
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; those that come after a body are passed over."""
        if self._reading is _Reading.HEAD:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Hand the request to the app, unless its head is read a second time."""
        if self.parser.should_upgrade():
            return
        version = self.parser.get_http_version()
        self._check_head(version)
        if version == "1.0":
            self.expect_100_continue = False  # which that version does not know
        self._passes_over = version == "1.1" and self._turn_away()
        if not self._passes_over:
            super().on_headers_complete()
        self._unread = 0
        self._reading = _Reading.BODY
        self._is_new = False

    def on_body(self, body: bytes) -> None:
        """Hand a piece of the body to who reads it."""
        self._unread = 0
        if not self._passes_over:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the next byte begins another request."""
        if self._reading is _Reading.BODY:
            self._unread = 0
            self._reading = _Reading.NOTHING
            if not self._passes_over:
                super().on_message_complete()

    def on_response_complete(self) -> None:
        """Go on with the next request, or say what was wrong with it."""
        super().on_response_complete()
        if self._owed_refusal is not None and (not self._is_answering() or self._is_its_own()):
            self._refuse(self._owed_refusal)

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, unless the next request came in time and was not read yet."""
        if not has_unread(self.transport):
            super().timeout_keep_alive_handler()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP; nothing that follows it is looked at."""
        if self._owed_refusal is not None:
            return
        self._owed_refusal = msg
        if not self._is_answering() or (self._is_its_own() and not self.cycle.response_started):
            self._refuse(msg)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answered = cycle
        whole = (
            app if cycle.scope["http_version"] == "1.1" else partial(_without_chunks, cycle, app)
        )
        super()._start_asgi_task(cycle, whole)

    def _turn_away(self) -> bool:
        """Answer a request at the door, if it is refused there and nobody waits before it.

        The deadline of its body starts anew, and there is none if that is there.
        """
        if self._is_answering() or self._has_turned_away or self.flow.write_paused:
            return False
        if not self.parser.should_keep_alive():
            return False
        refusal = self.door(self.parser.get_method(), self.url, self.headers)
        if refusal is None:
            return False
        status, lines = STATUS_LINE[refusal.status], as_lines(self.server_state.default_headers)
        self.transport.write(b"".join((status, lines, refusal.lines, b"\r\n", refusal.body)))
        self.server_state.total_requests += 1
        self._has_turned_away = True
        self._alarm.clear()
        return True

    def _check_head(self, version: str) -> None:
        if version not in {"1.0", "1.1"}:
            self._stop_parsing("only HTTP 1.0 and 1.1 are spoken here")
        n_hosts = 0
        for name, value in self.headers:
            if name == b"host":
                n_hosts += 1
            elif name == b"content-length" and len(value) > MAX_DIGITS:
                self._stop_parsing(f"a Content-Length has {MAX_DIGITS} digits at most")
        if n_hosts > 1 or (version == "1.1" and not n_hosts):
            self._stop_parsing("a request needs a Host header, and one only")

    def _stop_parsing(self, why: str) -> NoReturn:
        self.send_400_response(why)
        raise httptools.HttpParserError(why)

    def _feed(self, data: bytes) -> None:
        try:
            while data:
                try:
                    self.parser.feed_data(data)
                    return
                except httptools.HttpParserUpgrade as offer:
                    data = data[offer.args[0] :]
                    self._decline()
        except httptools.HttpParserError:
            self.send_400_response("this is no HTTP request")

    def _decline(self) -> None:
        """Read a head again without its offer of another protocol, which the parser would accept.

        Java's client offers HTTP/2 with every first request of a connection, and its body follows.
        """
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._stop_parsing("this is no proxy")
        version = self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (method, self.url, version)]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        # Another parser: where the head said that it is the last, this one has read its last.
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.parser.feed_data(b"\r\n".join([*lines, b"", b""]))

    def _is_answering(self) -> bool:
        """Tell whether the newest request waits for its answer, or for the end of it."""
        return self.cycle is not None and not self.cycle.response_complete

    def _is_its_own(self) -> bool:
        """Tell whether what is wrong belongs to the request whose turn it is."""
        return self._reading is _Reading.BODY and not self.pipeline

    def _refuse(self, why: str) -> None:
        if self.transport.is_closing():
            return
        body = json.dumps(error_body(InvalidRequest(why, code="invalid_http"))).encode()
        head = (
            "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()

    def _expect_head(self) -> None:
        self._alarm.set(self.header_timeout_s, self.transport.close)

    def _unset_keepalive_if_required(self) -> None:
        super()._unset_keepalive_if_required()
        if self._is_idle:
            self._is_idle = False
            self._alarm.clear()


async def _without_chunks(
    cycle: RequestResponseCycle,
    app: ASGI3Application,
    scope: Scope,
    receive: ASGIReceiveCallable,
    send: ASGISendCallable,
) -> None:
    """Run the app for a client of HTTP/1.0: an answer without a length ends with the connection."""
    has_length = True

    async def send_as_it_is(message: ASGISendEvent) -> None:
        nonlocal has_length
        if message["type"] == "http.response.start":
            has_length = any(
                name.lower() == b"content-length" for name, _ in message.get("headers", ())
            )
            if not has_length:
                cycle.keep_alive = False
                cycle.chunked_encoding = False
        elif message["type"] == "http.response.body" and not has_length:
            cycle.expected_content_length = len(message.get("body", b""))
        await send(message)

    await app(scope, receive, send_as_it_is)
