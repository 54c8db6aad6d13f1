"""Request bodies under limits. Knows nothing about what the bytes mean.

A body is read chunk by chunk, so that a limit or a deadline stops it where it is passed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import Receive

from service.api.errors import ClientDisconnected
from service.errors import InvalidRequest, PayloadTooLarge, RequestTimeout


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """What a body may take: bytes in all, seconds in all, seconds between two chunks."""

    max_bytes: int
    timeout_s: float
    idle_timeout_s: float


def check_headers(headers: Headers, limits: BodyLimits) -> None:
    """Refuse a body by what its headers say of it, before any of it is read.

    Raises:
        PayloadTooLarge: if it says that it is too long.
        InvalidRequest: if it is compressed: nothing here inflates.
    """
    encoding = headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise InvalidRequest(f"a body with content-encoding {encoding!r} is not taken")
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length) > limits.max_bytes:
        raise _too_large(int(length), limits)


async def read_chunks(receive: Receive, limits: BodyLimits) -> AsyncGenerator[bytes, None]:
    """Yield the chunks of the body as they arrive.

    Raises:
        PayloadTooLarge: at the first byte over the limit, whatever the headers said.
        RequestTimeout: if the body, or its next chunk, takes too long.
        ClientDisconnected: if the client leaves before the end.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limits.timeout_s
    n_bytes = 0
    more = True
    while more:
        wait_until = min(deadline, loop.time() + limits.idle_timeout_s)
        try:
            async with asyncio.timeout_at(wait_until):
                message = await receive()
        except TimeoutError:
            raise _too_slow(n_bytes, limits, stalled=wait_until < deadline) from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        chunk: bytes = message.get("body", b"")
        more = message.get("more_body", False)
        n_bytes += len(chunk)
        if n_bytes > limits.max_bytes:
            raise _too_large(n_bytes, limits)
        if more and loop.time() > deadline:
            raise _too_slow(n_bytes, limits, stalled=False)
        if chunk:
            yield chunk


async def drain(receive: Receive, max_bytes: int, timeout_s: float) -> None:
    """Read and forget what is left of a refused body, up to a bound.

    A connection closed on unread bytes is reset, and a client that still sends never sees why.
    """
    try:
        async with asyncio.timeout(timeout_s):
            while max_bytes > 0:
                message = await receive()
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return
                max_bytes -= len(message.get("body", b""))
    except TimeoutError:
        return


def _too_large(n_bytes: int, limits: BodyLimits) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"the body has {n_bytes} bytes or more, the limit is {limits.max_bytes}", param="file"
    )


def _too_slow(n_bytes: int, limits: BodyLimits, *, stalled: bool) -> RequestTimeout:
    if stalled:
        return RequestTimeout(
            f"nothing came for {limits.idle_timeout_s:g} s after {n_bytes} bytes of the body"
        )
    return RequestTimeout(
        f"the body did not arrive within {limits.timeout_s:g} s, only {n_bytes} bytes of it"
    )
