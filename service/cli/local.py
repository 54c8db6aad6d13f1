"""A model in this process as the source of transcriptions."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Self

from rich.console import Console

from service.api.deps import Serving
from service.api.schemas import parse_options
from service.audio.decode import AudioDecoder
from service.build import build_decoder, model_source
from service.cli.display import Json
from service.cli.transcribe import SourceFailedError, UnusableFileError
from service.errors import InvalidRequest, PayloadTooLarge, RequestTimeout, ServiceError
from service.in_process import load_serving
from service.metrics import Metrics
from service.settings import Settings


class LocalSource:
    """Loads the model when it is entered and ends its engine when it is left.

    Args:
        settings: which model, where, and the limits of a file.
        options: as `/transcribe` names them; None leaves one out.
    """

    def __init__(self, settings: Settings, options: Mapping[str, object]) -> None:
        self._settings = settings
        self._options = [(name, str(value)) for name, value in options.items() if value is not None]
        self._decoder: AudioDecoder = build_decoder(settings)
        self._serving: Serving | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Load the model.

        Raises:
            SourceFailedError: if it cannot be loaded.
        """
        try:
            with Console(stderr=True).status(f"loading {self._settings.model}"):
                self._serving = await load_serving(
                    self._settings, model_source(self._settings), Metrics()
                )
        except ServiceError as error:
            raise SourceFailedError(str(error)) from error
        self._stack.push_async_callback(self._serving.engine.stop, 0.0)
        self._stack.push_async_callback(self._decoder.close)
        return self

    async def __aexit__(self, *exception: object) -> None:
        """End the engine and the decoding children."""
        await self._stack.aclose()

    async def events(self, path: Path) -> AsyncIterator[Json]:
        """Decode and transcribe the file; see `Source.events`."""
        assert self._serving is not None  # noqa: S101 - it was entered
        serving = self._serving
        try:
            params = serving.transcriber.check(parse_options(self._options).params())
            data = await asyncio.to_thread(path.read_bytes)
            waveform = await self._decoder.decode(data)
            session = serving.engine.session()
            transcription = serving.transcriber.open(
                waveform, params, session, request_id=uuid.uuid4().hex
            )
            try:
                async for event in transcription.events():
                    yield event.to_dict()
            finally:
                transcription.close()
        except (InvalidRequest, PayloadTooLarge, RequestTimeout) as error:
            raise UnusableFileError(str(error)) from error
        except ServiceError as error:
            raise SourceFailedError(str(error)) from error
        except OSError as error:
            raise UnusableFileError(error.strerror or str(error)) from error
