"""How clients behave badly: damaged files, wrong forms, and HTTP spoken by hand.

Knows nothing about what is made of it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

MAX_UPLOAD_BYTES = 2_000_000
TOO_MANY_BYTES = MAX_UPLOAD_BYTES + 1
PIECE = 1 << 16
DEADLINE_S = 2.0
"""Of the service under test: for heads, for pauses in a body, and for readers."""
PAUSE_S = 0.5
SOME_BYTES = 4_000


class Connection(NamedTuple):
    """Both directions of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Return something that is no good audio, made of good audio or of nothing."""
    kind = chance.randrange(6)
    if kind == 0:
        return chance.choice(
            [b"", b"RIFF", b"this is a sentence", b"#EXTM3U\nhttp://x/y\n", data[:40]]
        )
    if kind == 1:
        return chance.randbytes(chance.randrange(1, SOME_BYTES))
    if kind == 2:
        return data[: chance.randrange(len(data))]
    mutable = bytearray(data)
    for _ in range(chance.randrange(1, 40)):
        # Half of the changes are where headers are.
        reach = len(mutable) if chance.random() < 0.5 else min(64, len(mutable))
        mutable[chance.randrange(reach)] = chance.choice([0, 0x7F, 0xFF, chance.randrange(256)])
    return bytes(mutable)


async def in_pieces(data: bytes) -> AsyncIterator[bytes]:
    """Yield a body whose length nobody says."""
    for start in range(0, len(data), PIECE):
        yield data[start : start + PIECE]


def no_file(_: bytes) -> dict[str, Any]:
    """A form without a file."""
    return {"files": {"other": (None, "x")}}


def many_parts(data: bytes) -> dict[str, Any]:
    """A form of thousands of parts."""
    return {"files": [("file", data), *((f"part{n}", (None, "x")) for n in range(3000))]}


def huge_name(data: bytes) -> dict[str, Any]:
    """A field whose name has a hundred thousand letters."""
    return {"files": {"file": data}, "data": {"x" * 100_000: "1"}}


def huge_field(data: bytes) -> dict[str, Any]:
    """A field of a megabyte."""
    return {"files": {"file": data}, "data": {"initial_prompt": "x" * 1_000_000}}


def no_option(data: bytes) -> dict[str, Any]:
    """An option that does not exist."""
    return {"files": {"file": data}, "data": {"url": "http://127.0.0.1/secret"}}


def no_model(data: bytes) -> dict[str, Any]:
    """A model that is not served."""
    return {"files": {"file": data}, "data": {"model": "../../etc/passwd"}}


FORMS: list[Callable[[bytes], dict[str, Any]]] = [
    no_file, many_parts, huge_name, huge_field, no_option, no_model,
]  # fmt: skip


def head(length: int, query: str = "") -> bytes:
    """Return the head of a request with a raw body."""
    return (
        f"POST /transcribe{query} HTTP/1.1\r\nhost: x\r\ncontent-type: audio/wav\r\n"
        f"content-length: {length}\r\n\r\n"
    ).encode()


async def leave_in_upload(to: Connection, data: bytes, chance: random.Random) -> str:
    """Leave when a part of the body is sent."""
    to.writer.write(head(len(data)) + data[: chance.randrange(len(data))])
    await to.writer.drain()
    await asyncio.sleep(chance.random() * 0.05)
    return "left"


async def leave_unanswered(to: Connection, data: bytes, chance: random.Random) -> str:
    """Leave when all is sent and nothing was read."""
    to.writer.write(head(len(data)) + data)
    await to.writer.drain()
    await asyncio.sleep(chance.random() * 0.1)
    return "left"


async def leave_json(to: Connection, data: bytes, chance: random.Random) -> str:
    """Leave while the answer is made, which comes in one piece."""
    to.writer.write(head(len(data), "?stream=false") + data)
    await to.writer.drain()
    await asyncio.sleep(chance.random() * 0.3)
    return "left"


async def stop_reading(to: Connection, data: bytes, chance: random.Random) -> str:
    """Never read what is answered."""
    to.reader._transport.pause_reading()  # type: ignore[attr-defined]
    to.writer.write(head(len(data)) + data)
    await to.writer.drain()
    await asyncio.sleep(2 * DEADLINE_S)
    return "left"


async def say_nothing(to: Connection, data: bytes, chance: random.Random) -> str:
    """Connect, and wait until the service has had enough."""
    await to.reader.read()
    return "closed"


async def trickle_head(to: Connection, data: bytes, chance: random.Random) -> str:
    """Send a byte of the head now and then."""
    to.writer.write(b"GET /livez HTTP/1.1\r\nhost: x\r\nx-slow: ")
    return await _trickle(to)


async def trickle_body(to: Connection, data: bytes, chance: random.Random) -> str:
    """Send a byte of the body now and then."""
    to.writer.write(head(len(data)) + data[:100])
    return await _trickle(to)


async def _trickle(to: Connection) -> str:
    """Send bytes until there is an answer or an end."""
    answer = asyncio.ensure_future(to.reader.read(PIECE))
    try:
        while not answer.done():
            to.writer.write(b"x")
            await asyncio.wait((answer,), timeout=PAUSE_S)
        return status_of(answer.result())
    finally:
        answer.cancel()


async def lie_about_length(to: Connection, data: bytes, chance: random.Random) -> str:
    """Send more than the head says, or less and then nothing more."""
    said = len(data) - 1000
    if chance.random() < 0.5:
        to.writer.write(head(said, "?stream=false") + data)
    else:
        to.writer.write(head(len(data), "?stream=false") + data[:said])
        to.writer.write_eof()
    return status_of(await to.reader.read())


def status_of(answer: bytes) -> str:
    """Return the status of an answer, or `closed` if there is none."""
    return answer[9:12].decode() if answer.startswith(b"HTTP/1.1 ") else "closed"
