"""What the protocol answers itself, on a connection whose other end does as it likes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from service.api.turn_away import Refusal
from service.protocol import BoundedProtocol

POST = b"POST /transcribe HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return False

    def close(self) -> None:
        """Nothing is open."""


def refused(method: bytes, target: bytes, headers: Sequence[tuple[bytes, bytes]]) -> Refusal:
    return Refusal(429, b"content-length: 4\r\n", b"full")


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer in other words than the door."""
    await send({"type": "http.response.start", "status": 503, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def unconnected() -> BoundedProtocol:
    config = uvicorn.Config(app, lifespan="off", log_config=None)
    config.load()
    return BoundedProtocol.with_settings(10.0, refused)(config, ServerState(), {})


def connected() -> tuple[BoundedProtocol, Transport]:
    """Return one end of a connection, and what it writes to."""
    protocol, transport = unconnected(), Transport()
    protocol.connection_made(transport)
    return protocol, transport


def statuses(written: bytes) -> list[int]:
    return [int(part[:3]) for part in written.split(b"HTTP/1.1 ")[1:]]


async def answers(*received: bytes) -> list[int]:
    """Return the statuses of what is answered to what arrives."""
    protocol, transport = connected()
    for data in received:
        protocol.data_received(data)
    await asyncio.gather(*protocol.tasks)
    protocol.connection_lost(None)
    return statuses(transport.written)


def test_of_what_arrives_at_once_one_request_is_refused_at_the_door() -> None:
    assert asyncio.run(answers(POST, POST)) == [429, 429]
    assert asyncio.run(answers(POST + POST)) == [429, 503]


@pytest.mark.parametrize(
    "header",
    [b"connection: close", b"connection: TE\r\nconnection: Close", b"proxy-connection: close"],
)
def test_the_last_request_of_a_connection_is_for_the_app(header: bytes) -> None:
    assert asyncio.run(answers(POST[:-2] + header + b"\r\n\r\n")) == [503]


def test_each_body_that_is_passed_over_has_a_deadline_of_its_own() -> None:
    async def talk() -> list[float | None]:
        protocol, _ = connected()
        deadlines = [protocol._alarm.at]
        head = POST.replace(b"length: 0", b"length: 3")
        for data in (head + b"a", b"bc" + head + b"a", b"b"):
            await asyncio.sleep(0.001)  # for the clock to go on
            protocol.data_received(data)
            deadlines.append(protocol._alarm.at)
        protocol.connection_lost(None)
        return [*deadlines, protocol._alarm.at]

    opened, first, second, same, none = asyncio.run(talk())
    assert opened is not None
    assert first is not None
    assert second is not None
    assert opened < first < second == same
    assert none is None


def test_a_connection_may_be_idle_after_a_refusal_for_as_long_as_after_an_answer() -> None:
    async def talk() -> tuple[float | None, float, float | None]:
        protocol, _ = connected()
        protocol.data_received(POST)
        idle_until, now = protocol._alarm.at, protocol.loop.time()
        protocol.data_received(POST[:9])  # the next begins: now its head is waited for
        return idle_until, now, protocol._alarm.at

    idle_until, now, head_until = asyncio.run(talk())
    assert idle_until is not None
    assert head_until is not None
    assert idle_until == pytest.approx(now + 5, abs=0.5)
    assert head_until == pytest.approx(now + 10, abs=0.5)


@pytest.mark.parametrize("came", [True, False], ids=["it came in time", "it did not"])
def test_an_idle_connection_is_kept_for_a_request_that_the_loop_has_not_read(*, came: bool) -> None:
    async def talk() -> bytes:
        protocol, loop = unconnected(), asyncio.get_running_loop()
        server = await loop.create_server(lambda: protocol, "127.0.0.1", 0)
        with socket.create_connection(server.sockets[0].getsockname()) as client:
            client.sendall(POST)
            first = await loop.run_in_executor(None, client.recv, 4096)
            assert statuses(first) == [429]
            if came:
                client.sendall(POST)
            protocol.timeout_keep_alive_handler()
            second = await loop.run_in_executor(None, client.recv, 4096)
        server.close()
        await server.wait_closed()
        return second

    assert statuses(asyncio.run(talk())) == ([429] if came else [])


def test_answers_that_nobody_reads_do_not_pile_up() -> None:
    async def talk() -> bytes:
        protocol, transport = connected()
        protocol.data_received(POST)
        protocol.pause_writing()  # as asyncio does where much has been written and not taken
        protocol.data_received(POST)
        for task in [*protocol.tasks]:
            waiting, _ = await asyncio.wait([task], timeout=0.05)
            assert not waiting
        told = transport.written
        protocol.resume_writing()
        await asyncio.gather(*protocol.tasks)
        assert transport.written[len(told) :].startswith(b"HTTP/1.1 503 ")
        protocol.connection_lost(None)
        return told

    told = asyncio.run(talk())
    assert told.startswith(b"HTTP/1.1 429 ")
    assert told.endswith(b"\r\n\r\nfull")
    assert statuses(told) == [429]
