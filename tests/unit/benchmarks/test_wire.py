from __future__ import annotations

import asyncio
from contextlib import closing

import pytest

from benchmarks.wire import Wire

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
LAST = (
    b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 3\r\nconnection: close\r\n"
    b"content-length: 0\r\n\r\n"
)
CUT = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no"


async def posted(*answers: bytes) -> list[tuple[int, int]]:
    """Post once for each answer -> its status, and how many connections there were by then."""
    remaining = iter(answers)
    n_connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal n_connections
        n_connections += 1
        with closing(writer):
            while head := await reader.readuntil(b"\r\n\r\n"):
                assert head.startswith(b"POST /transcribe?stream=false HTTP/1.1\r\n")
                assert await reader.readexactly(4) == b"RIFF"
                writer.write(answer := next(remaining))
                if answer != OK:
                    return

    found = []
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        with closing(Wire(f"http://127.0.0.1:{port}", 60.0)) as wire:
            for _ in answers:
                reply = await wire.post("/transcribe", {"stream": "false"}, b"RIFF")
                assert reply.status == 200 or reply.headers["retry-after"] == "3"
                found.append((reply.status, n_connections))
    return found


def test_connection_is_kept_until_an_answer_closes_it() -> None:
    assert asyncio.run(posted(OK, OK, LAST, OK)) == [(200, 1), (200, 1), (429, 1), (200, 2)]


def test_answer_that_is_cut_off_is_an_error() -> None:
    with pytest.raises(EOFError):
        asyncio.run(posted(CUT))
