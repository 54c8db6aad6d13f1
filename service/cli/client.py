"""A client of a running service: uploads a file, reads the events of its transcription.

Knows nothing about models: it speaks HTTP only, and is what `earshot transcribe --server` and the
load generator use.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from service.cli.display import Json

TIMEOUT = httpx.Timeout(30.0, read=120.0)
"""Seconds. The service sends a comment every 15 s: a longer silence means that it is gone."""


class RemoteError(Exception):
    """The service answered with an error; the message is its own.

    Attributes:
        status: the HTTP status, or 200 if the error was the last event of a stream.
        code: the machine-readable code of the error.
    """

    def __init__(self, message: str, status: int, code: str | None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


async def transcribe(
    client: httpx.AsyncClient, url: str, path: Path, options: Mapping[str, str]
) -> AsyncIterator[Json]:
    """Upload a file and yield the events of its transcription as they come.

    Raises:
        RemoteError: if the service refuses it or fails.
        httpx.TransportError: if it cannot be reached or goes away.
        OSError: if the file cannot be read.
    """
    with path.open("rb") as file:
        async with client.stream(
            "POST",
            f"{url.rstrip('/')}/transcribe",
            files={"file": (path.name, file)},
            data=dict(options),
        ) as response:
            if response.status_code != httpx.codes.OK:
                await response.aread()
                raise _refusal(response)
            finished = False
            async for event in _events(response):
                if event["type"] == "error":
                    raise RemoteError(event["error"]["message"], 200, event["error"]["code"])
                finished = event["type"] == "done"
                yield event
            if not finished:
                raise RemoteError("the stream ended before the transcription did", 200, None)


async def _events(response: httpx.Response) -> AsyncIterator[Json]:
    """Server-sent events whose data is one JSON line, with the name of the event as `type`."""
    name = ""
    async for line in response.aiter_lines():
        field, _, value = line.partition(":")
        if field == "event":
            name = value.strip()
        elif field == "data":
            data: Json = json.loads(value)
            yield {"type": name} | data


def _refusal(response: httpx.Response) -> RemoteError:
    try:
        error: dict[str, Any] = response.json()["error"]
        return RemoteError(error["message"], response.status_code, error["code"])
    except (ValueError, KeyError, TypeError):
        answer = f"the server answered {response.status_code} {response.reason_phrase}"
        return RemoteError(answer, response.status_code, None)
