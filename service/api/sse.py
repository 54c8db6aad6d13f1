"""Server-sent events over ASGI. Knows nothing about what is streamed or who makes it.

Our own response class, because the usual one starts to stream before anything can be refused, and
leaves its generator open if the client goes before the first event. No `id:` lines: with one, a
comment alone makes OpenAI's client dispatch an empty event.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import anyio
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from service.api.deadline import Deadline
from service.api.disconnect import until_disconnect
from service.api.errors import ClientDisconnected

HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}
KEEPALIVE = b": keep-alive\n\n"
_LINE_BREAKS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}
"""JSON leaves these as they are, and some clients end a line at them."""

_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode
"""`json.dumps` with these arguments makes an encoder for each event."""


class WireEvent(Protocol):
    """An event that can be sent."""

    @property
    def type(self) -> str:
        """Its name."""

    def to_dict(self) -> dict[str, Any]:
        """Return its data."""


def encode(name: str, data: dict[str, Any]) -> bytes:
    """Return one event; JSON without line breaks needs no more than one data line."""
    return f"event: {name}\n".encode() + encode_unnamed(name, data)


def encode_unnamed(name: str, data: dict[str, Any]) -> bytes:
    """Return one event without its name: OpenAI's client of 2025 misreads those that have one."""
    return f"data: {_to_json(data).translate(_LINE_BREAKS)}\n\n".encode()


@dataclass(frozen=True, slots=True)
class Dialect:
    """How events are written.

    Attributes:
        encode: makes bytes of an event's name and data.
        trailer: is sent after the last event, unless that is an error.
    """

    encode: Callable[[str, dict[str, Any]], bytes] = encode
    trailer: bytes = b""


class SlowReader(ClientDisconnected):
    """The client did not take what was sent to it in time."""


class EventStream(Response):
    """A response that sends each event as it comes, and closes its source whatever happens.

    Args:
        events: what to send.
        on_error: makes the last event of an error in `events`: its data.
        on_close: frees what the source holds; called once, at the end of `__call__`.
        keepalive_s: a comment is sent after a silence as long as this.
        send_timeout_s: how long the client may take to read what was sent.
        deadline: of the whole; past it the last event is an error.
        dialect: how events are written.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[WireEvent, None],
        *,
        on_error: Callable[[Exception], dict[str, Any]],
        on_close: Callable[[], None],
        keepalive_s: float = 15.0,
        send_timeout_s: float = 30.0,
        deadline: Deadline | None = None,
        dialect: Dialect | None = None,
    ) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers(HEADERS)
        self._events = events
        self._on_error = on_error
        self._on_close = on_close
        self._keepalive_s = keepalive_s
        self._send_timeout_s = send_timeout_s
        self._deadline = deadline
        self._dialect = dialect or Dialect()
        self._sent_at = 0.0
        self._sending_since: float | None = None
        self._complete = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream until the events end or the client leaves.

        Raises:
            ClientDisconnected: if the client left, or stopped reading (`SlowReader`).
        """
        try:
            await self._stream_or_leave(receive, send)
        finally:
            self._on_close()
            with anyio.CancelScope(shield=True):
                await self._events.aclose()

    async def _stream_or_leave(self, receive: Receive, send: Send) -> None:
        """Stream, and send comments, until one of them ends or the client leaves.

        No task group: what cancels its tasks keeps their errors, these keep the frames, and all of
        a request would stay until the next full collection of garbage.
        """
        left: list[type[ClientDisconnected]] = []

        async def run(work: Awaitable[None]) -> None:
            try:
                await work
            except ClientDisconnected as error:
                left.append(type(error))

        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await self._send_in_time(send, start)
        streaming = asyncio.ensure_future(run(self._stream(send)))
        beside = asyncio.ensure_future(run(self._watch(send)))
        watching = asyncio.ensure_future(until_disconnect(receive))
        tasks = (streaming, beside, watching)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if streaming.done():
                streaming.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if not self._complete:
            raise left[0] if left else ClientDisconnected

    async def _stream(self, send: Send) -> None:
        dialect = self._dialect
        try:
            async with self._deadline.enforced() if self._deadline else nullcontext():
                async for event in self._events:
                    await self._send(send, _body(dialect.encode(event.type, event.to_dict())))
                if dialect.trailer:
                    await self._send(send, _body(dialect.trailer))
        except ClientDisconnected:
            raise
        except Exception as error:  # noqa: BLE001 - after the first byte it can only be an event
            data = {"type": "error"} | self._on_error(error)
            await self._send(send, _body(dialect.encode("error", data)))
        await self._send(send, _body(b"", more=False))
        self._complete = True

    async def _watch(self, send: Send) -> None:
        """Send a comment after each silence, and end at a client that does not read.

        It watches what `_stream` sends by one timer, because one for each token costs a sixth of
        what the event loop does for it.
        """
        now = asyncio.get_running_loop().time
        while True:
            if self._sending_since is not None:
                left_s = self._sending_since + self._send_timeout_s - now()
                if left_s <= 0:
                    raise SlowReader
            else:
                left_s = self._sent_at + self._keepalive_s - now()
                if left_s <= 0:
                    await self._send_in_time(send, _body(KEEPALIVE))
                    continue
            # What is sent now may soon be through and silence follow, and the other way around.
            await asyncio.sleep(min(left_s, self._keepalive_s, self._send_timeout_s))

    async def _send_in_time(self, send: Send, message: Message) -> None:
        try:
            async with asyncio.timeout(self._send_timeout_s):
                await send(message)
        except TimeoutError:
            raise SlowReader from None
        except OSError:
            raise ClientDisconnected from None
        self._sent_at = asyncio.get_running_loop().time()

    async def _send(self, send: Send, message: Message) -> None:
        now = asyncio.get_running_loop().time
        self._sending_since = now()
        try:
            await send(message)
        except OSError:
            raise ClientDisconnected from None
        self._sending_since = None
        self._sent_at = now()


def _body(data: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}
