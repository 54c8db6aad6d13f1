from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from starlette.types import Message

from service.api.errors import ClientDisconnected
from service.api.sse import EventStream, SlowReader, encode


@dataclass
class Note:
    type: str = "note"
    value: Any = 1

    def to_dict(self) -> dict[str, Any]:
        return {"type": self.type, "value": self.value}


@dataclass
class Client:
    """The far side of one response."""

    leaves: asyncio.Event = field(default_factory=asyncio.Event)
    messages: list[Message] = field(default_factory=list)
    on_send: Callable[[Message], Any] | None = None

    async def receive(self) -> Message:
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.messages.append(message)
        if self.on_send is not None:
            await self.on_send(message)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages)


def response(events: AsyncGenerator[Note, None], closed: list[str], **options: Any) -> EventStream:
    return EventStream(
        events,
        on_error=lambda error: {"error": {"message": str(error)}},
        on_close=lambda: closed.append("closed"),
        **options,
    )


async def notes(*values: Any) -> AsyncGenerator[Note, None]:
    for value in values:
        yield Note(value=value)


async def silence(trace: list[str]) -> AsyncGenerator[Note, None]:
    try:
        yield Note()
        await asyncio.Event().wait()
    finally:
        trace.append("source ended")


def test_events_are_sent_one_by_one_and_the_source_is_closed() -> None:
    closed: list[str] = []

    async def scenario() -> Client:
        client = Client()
        await response(notes(1, 2), closed)({}, client.receive, client.send)
        return client

    client = asyncio.run(scenario())
    headers = dict(client.messages[0]["headers"])
    assert client.messages[0]["status"] == 200
    assert headers[b"content-type"] == b"text/event-stream; charset=utf-8"
    assert headers[b"cache-control"] == b"no-store"
    assert headers[b"x-accel-buffering"] == b"no"
    assert [message["body"] for message in client.messages[1:]] == [
        b'event: note\ndata: {"type":"note","value":1}\n\n',
        b'event: note\ndata: {"type":"note","value":2}\n\n',
        b"",
    ]
    assert not client.messages[-1]["more_body"]
    assert closed == ["closed"]


def test_no_event_can_break_its_lines() -> None:
    data = encode("note", {"text": "a\nb\rc\u2028d\u2029e\u0085f", "other": "日本"})
    assert data.count(b"\n") == 3
    assert b"\r" not in data
    assert len(data.decode().splitlines()) == 3
    assert "日本".encode() in data
    assert b"id:" not in data


def test_an_error_is_the_last_event() -> None:
    closed: list[str] = []

    async def failing() -> AsyncGenerator[Note, None]:
        yield Note()
        raise RuntimeError("broken")

    async def scenario() -> Client:
        client = Client()
        await response(failing(), closed)({}, client.receive, client.send)
        return client

    body = asyncio.run(scenario()).body
    assert body.endswith(b'event: error\ndata: {"type":"error","error":{"message":"broken"}}\n\n')
    assert closed == ["closed"]


def test_a_client_that_leaves_ends_the_source() -> None:
    trace: list[str] = []

    async def scenario() -> None:
        client = Client()

        async def leave(message: Message) -> None:
            if message.get("body"):
                client.leaves.set()

        client.on_send = leave
        await response(silence(trace), trace)({}, client.receive, client.send)

    with pytest.raises(ClientDisconnected):
        asyncio.run(scenario())
    assert sorted(trace) == ["closed", "source ended"]


def test_a_client_that_left_before_the_first_event_is_closed_too() -> None:
    closed: list[str] = []

    async def scenario() -> None:
        client = Client()
        client.leaves.set()

        async def blocked(message: Message) -> None:
            raise OSError

        client.on_send = blocked
        await response(notes(1), closed)({}, client.receive, client.send)

    with pytest.raises(ClientDisconnected):
        asyncio.run(scenario())
    assert closed == ["closed"]


def test_silence_is_filled_with_comments() -> None:
    async def scenario() -> bytes:
        client = Client()
        enough = 3

        async def leave(message: Message) -> None:
            if client.body.count(b": keep-alive\n\n") == enough:
                client.leaves.set()

        client.on_send = leave
        stream = response(silence([]), [], keepalive_s=0.02)
        with pytest.raises(ClientDisconnected):
            await stream({}, client.receive, client.send)
        return client.body

    body = asyncio.run(scenario())
    assert body.startswith(b"event: note\n")
    assert body.endswith(b": keep-alive\n\n")


@pytest.mark.parametrize("leaves", [False, True])
def test_nothing_of_a_stream_is_left_to_the_garbage_collector(leaves: bool) -> None:
    """Its events and callbacks hold a whole request."""

    async def scenario() -> None:
        client = Client()

        async def events() -> AsyncGenerator[Note, None]:
            yield Note()
            await asyncio.sleep(0)  # comments wait for their time by now
            if leaves:
                client.leaves.set()
                await asyncio.Event().wait()

        stream = response(events(), [])
        alive = weakref.ref(stream)
        with suppress(ClientDisconnected):
            await stream({}, client.receive, client.send)
        del stream
        await asyncio.sleep(0)
        assert alive() is None

    gc.disable()
    try:
        asyncio.run(scenario())
    finally:
        gc.enable()


@pytest.mark.parametrize("keepalive_s", [0.01, 15.0], ids=["woken before", "asleep"])
@pytest.mark.parametrize("stuck_at", [b"event: note", b": keep-alive"])
def test_a_reader_that_stops_reading_is_given_up(keepalive_s: float, stuck_at: bytes) -> None:
    closed: list[str] = []

    async def stuck(message: Message) -> None:
        if message.get("body", b"").startswith(stuck_at):
            await asyncio.Event().wait()

    async def scenario() -> None:
        client = Client(on_send=stuck)
        options = {"send_timeout_s": 0.05, "keepalive_s": min(keepalive_s, 0.1)}
        if stuck_at.startswith(b"event"):
            options["keepalive_s"] = keepalive_s
        stream = response(silence([]), closed, **options)
        async with asyncio.timeout(10.0):
            await stream({}, client.receive, client.send)

    with pytest.raises(SlowReader):
        asyncio.run(scenario())
    assert closed == ["closed"]


def test_a_reader_that_was_slow_for_a_moment_is_kept_alive_in_the_silence_after() -> None:
    """The watch woke while the event was being sent, and may not sleep for the longer deadline."""

    async def scenario() -> Client:
        client = Client()

        async def slow_then_waiting(message: Message) -> None:
            if message.get("body", b"").startswith(b"event: note"):
                await asyncio.sleep(0.2)
            elif message.get("body") == b": keep-alive\n\n":
                client.leaves.set()

        client.on_send = slow_then_waiting
        stream = response(silence([]), [], keepalive_s=0.05, send_timeout_s=30.0)
        async with asyncio.timeout(5.0):
            with suppress(ClientDisconnected):
                await stream({}, client.receive, client.send)
        return client

    client = asyncio.run(scenario())
    assert client.body.count(b": keep-alive") == 1
