from __future__ import annotations

import asyncio

import pytest
from starlette.datastructures import Headers
from starlette.types import Message, Receive

from service.api.body import BodyLimits, check_headers, drain, read_chunks
from service.api.errors import ClientDisconnected
from service.errors import InvalidRequest, PayloadTooLarge, RequestTimeout

LIMITS = BodyLimits(max_bytes=10, timeout_s=5.0, idle_timeout_s=5.0)


def receive_of(*messages: Message) -> Receive:
    """Return a channel that gives these messages and then waits for ever."""
    left = list(messages)

    async def receive() -> Message:
        if not left:
            await asyncio.Event().wait()
        return left.pop(0)

    return receive


def part(body: bytes, *, more: bool = True) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


async def collect(receive: Receive, limits: BodyLimits = LIMITS) -> bytes:
    return b"".join([chunk async for chunk in read_chunks(receive, limits)])


def test_a_body_of_the_limit_is_read() -> None:
    receive = receive_of(part(b"12345"), part(b"67890", more=False))
    assert asyncio.run(collect(receive)) == b"1234567890"


def test_a_byte_more_than_the_limit_is_refused_without_a_length() -> None:
    receive = receive_of(part(b"12345"), part(b"678901"))
    with pytest.raises(PayloadTooLarge, match="11 bytes or more, the limit is 10"):
        asyncio.run(collect(receive))


def test_a_client_that_leaves_within_its_body_is_noticed() -> None:
    receive = receive_of(part(b"1"), {"type": "http.disconnect"})
    with pytest.raises(ClientDisconnected):
        asyncio.run(collect(receive))


def test_a_body_that_stalls_times_out() -> None:
    limits = BodyLimits(max_bytes=10, timeout_s=5.0, idle_timeout_s=0.05)
    with pytest.raises(RequestTimeout, match=r"nothing came for 0.05 s after 1 bytes"):
        asyncio.run(collect(receive_of(part(b"1")), limits))


def test_a_body_that_trickles_times_out() -> None:
    limits = BodyLimits(max_bytes=1000, timeout_s=0.1, idle_timeout_s=5.0)

    async def trickle() -> Message:
        await asyncio.sleep(0.01)
        return part(b"1")

    with pytest.raises(RequestTimeout, match=r"did not arrive within 0.1 s"):
        asyncio.run(collect(trickle, limits))


def test_a_flood_of_empty_chunks_times_out_too() -> None:
    limits = BodyLimits(max_bytes=10, timeout_s=0.05, idle_timeout_s=5.0)

    async def flood() -> Message:
        return part(b"")

    with pytest.raises(RequestTimeout):
        asyncio.run(collect(flood, limits))


def test_a_length_over_the_limit_is_refused_before_the_body() -> None:
    with pytest.raises(PayloadTooLarge, match="11 bytes"):
        check_headers(Headers({"content-length": "11"}), LIMITS)
    check_headers(Headers({"content-length": "10"}), LIMITS)


def test_a_compressed_body_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="gzip"):
        check_headers(Headers({"content-encoding": "gzip"}), LIMITS)


def test_draining_stops_at_the_end_of_the_body() -> None:
    async def scenario() -> Message:
        receive = receive_of(part(b"1"), part(b"", more=False), part(b"next"))
        await drain(receive, max_bytes=100, timeout_s=5.0)
        return await receive()

    assert asyncio.run(scenario())["body"] == b"next"


def test_draining_stops_at_its_bound() -> None:
    async def scenario() -> Message:
        receive = receive_of(part(b"123"), part(b"456"), part(b"kept"))
        await drain(receive, max_bytes=5, timeout_s=5.0)
        return await receive()

    assert asyncio.run(scenario())["body"] == b"kept"


def test_draining_stops_at_its_deadline() -> None:
    asyncio.run(drain(receive_of(part(b"1")), max_bytes=100, timeout_s=0.02))
