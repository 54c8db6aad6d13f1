"""The client's reading of a service's answers. The bytes are given; no service runs here."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from service.cli.client import RemoteError, transcribe
from service.cli.display import Json

STREAM = (
    b': keep-alive\n\nevent: started\ndata: {"type":"started","duration_s":1.0}\n\n'
    b'event: token\r\ndata: {"type":"token","text":" z\xc3\xa9ro"}\r\n\r\n'
)
DONE = b'event: done\ndata: {"type":"done","text":"z\xc3\xa9ro"}\n\n'
FAILED = (
    b'event: error\ndata: {"type":"error","error":{"message":"lost","type":"server_error",'
    b'"param":null,"code":"engine_dead"}}\n\n'
)


def _events(tmp_path: Path, status: int, body: bytes) -> list[Json]:
    file = tmp_path / "a.wav"
    file.write_bytes(b"RIFF")
    seen = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(status, content=body)

    async def collect() -> list[Json]:
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
            return [event async for event in transcribe(client, "http://x/", file, {"task": "t"})]

    events = asyncio.run(collect())
    assert seen[0].url == "http://x/transcribe"
    return events


def test_events_come_in_order_and_comments_do_not(tmp_path: Path) -> None:
    events = _events(tmp_path, 200, STREAM + DONE)
    assert [event["type"] for event in events] == ["started", "token", "done"]
    assert events[1]["text"] == " zéro"


def test_an_error_event_is_raised_with_its_code(tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match="lost") as raised:
        _events(tmp_path, 200, STREAM + FAILED)
    assert raised.value.code == "engine_dead"


def test_a_stream_that_stops_early_is_no_transcript(tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match="ended before"):
        _events(tmp_path, 200, STREAM)


def test_a_refusal_keeps_its_status_and_message(tmp_path: Path) -> None:
    body = b'{"error":{"message":"not audio","type":"t","param":"file","code":"invalid_audio"}}'
    with pytest.raises(RemoteError, match="not audio") as raised:
        _events(tmp_path, 400, body)
    assert (raised.value.status, raised.value.code) == (400, "invalid_audio")


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"error":"x"}', b""])
def test_an_answer_of_another_server_is_told_by_its_status(tmp_path: Path, body: bytes) -> None:
    with pytest.raises(RemoteError, match="502 Bad Gateway"):
        _events(tmp_path, 502, body)
