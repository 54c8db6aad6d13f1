"""Posts recordings with as little work as there can be, over connections that are kept open.

For a generator that shares the cores with what it measures: httpx takes five times the CPU for a
recording of 30 s. Understands answers that say how long they are, as all of this service's do but
streams. Knows nothing about what is posted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlencode, urlsplit

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Reply(NamedTuple):
    """What came back.

    Attributes:
        status: of HTTP.
        headers: by their names in small letters.
    """

    status: int
    headers: Mapping[str, str]


class Wire:
    """Connections to one service.

    Args:
        url: of the service; HTTP only.
        timeout_s: for a whole request.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._timeout_s = timeout_s
        self._idle: list[Connection] = []

    async def post(self, path: str, params: Mapping[str, str], body: bytes) -> Reply:
        """Post a body and read the whole answer.

        Raises:
            TimeoutError: if that takes too long.
            OSError: if there is no connection, or it is lost.
            EOFError: if the answer ends before it is whole.
        """
        connection = await self._connection()
        reader, writer = connection
        try:
            async with asyncio.timeout(self._timeout_s):
                writer.write(
                    f"POST {path}?{urlencode(params)} HTTP/1.1\r\nhost: {self._host}\r\n"
                    f"content-length: {len(body)}\r\n\r\n".encode()
                )
                writer.write(body)
                await writer.drain()
                reply = _parsed(await reader.readuntil(b"\r\n\r\n"))
                await reader.readexactly(int(reply.headers["content-length"]))
        except BaseException:
            writer.close()
            raise
        if reply.headers.get("connection") == "close":
            writer.close()
        else:
            self._idle.append(connection)
        return reply

    def close(self) -> None:
        """Close what is open and idle."""
        while self._idle:
            self._idle.pop()[1].close()

    async def _connection(self) -> Connection:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return await asyncio.open_connection(self._host, self._port)


def _parsed(head: bytes) -> Reply:
    """Return the status and the headers of an answer."""
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines if line)
    headers = {name.lower(): value.strip() for name, _, value in pairs}
    return Reply(int(first.split(" ", 2)[1]), headers)
