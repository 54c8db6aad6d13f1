"""What the protocol does with a connection that does not take what is written to it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

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
    return Refusal(429, [(b"content-length", b"4")], b"full")


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer in other words than the door."""
    await send({"type": "http.response.start", "status": 503, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def test_answers_that_nobody_reads_do_not_pile_up() -> None:
    async def talk() -> bytes:
        config = uvicorn.Config(app, lifespan="off", log_config=None)
        config.load()
        protocol = BoundedProtocol.with_settings(10.0, refused)(config, ServerState(), {})
        transport = Transport()
        protocol.connection_made(transport)
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
    assert told.count(b"HTTP/1.1") == 1
