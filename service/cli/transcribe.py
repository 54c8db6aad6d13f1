"""`earshot transcribe`: one file after the other, from whatever source its events come.

Knows nothing about models: a source is one here (`local.py`) or a service elsewhere.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol, Self

import httpx

from service.cli import client
from service.cli.display import Json, TranscriptDisplay, complain

FAILED = 1
UNUSABLE = 2
_UNUSABLE_STATUS = {400, 413}


class UnusableFileError(Exception):
    """This file cannot be transcribed; the next one may be. The message does not name it."""


class SourceFailedError(Exception):
    """Nothing can be transcribed any more."""


class Source(AbstractAsyncContextManager["Source"], Protocol):
    """Whatever transcribes."""

    def events(self, path: Path) -> AsyncIterator[Json]:
        """Yield the events of one file's transcription.

        Raises:
            UnusableFileError: the fault lies in the file or the options.
            SourceFailedError: the fault lies elsewhere.
        """
        ...


class RemoteSource:
    """A running service.

    Args:
        url: its address.
        options: as the service names them; None leaves one to the service.
        api_key: one that it takes; None for a service that needs none.
    """

    def __init__(self, url: str, options: Mapping[str, object], api_key: str | None = None) -> None:
        self._url = url
        self._options = {name: str(value) for name, value in options.items() if value is not None}
        headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        self._client = httpx.AsyncClient(timeout=client.TIMEOUT, headers=headers)

    async def __aenter__(self) -> Self:
        """Nothing to prepare: the first request connects."""
        return self

    async def __aexit__(self, *exception: object) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def events(self, path: Path) -> AsyncIterator[Json]:
        """Upload the file; see `Source.events`."""
        try:
            async for event in client.transcribe(self._client, self._url, path, self._options):
                yield event
        except client.RemoteError as error:
            if error.status in _UNUSABLE_STATUS:
                raise UnusableFileError(str(error)) from error
            raise SourceFailedError(f"{self._url}: {error}") from error
        except (httpx.TransportError, httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise SourceFailedError(f"{self._url}: {error or type(error).__name__}") from error
        except OSError as error:
            raise UnusableFileError(error.strerror or str(error)) from error


async def transcribe_files(files: Sequence[Path], source: Source, *, as_json: bool) -> int:
    """Transcribe the files in order; return the exit code.

    A file that cannot be used is one line on stderr, and the others are still transcribed.
    """
    try:
        async with source:
            labelled = len(files) > 1
            usable = [
                await _is_usable(path, source, labelled=labelled, as_json=as_json) for path in files
            ]
    except SourceFailedError as error:
        complain(str(error))
        return FAILED
    return 0 if all(usable) else UNUSABLE


async def _is_usable(path: Path, source: Source, *, labelled: bool, as_json: bool) -> bool:
    """Transcribe a file; complain if that cannot be done."""
    try:
        with TranscriptDisplay(str(path), labelled=labelled, as_json=as_json) as display:
            async for event in source.events(path):
                display.show(event)
    except UnusableFileError as error:
        complain(f"{path}: {error}")
        return False
    return True
