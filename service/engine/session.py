"""The event loop's side of the engine: permits, leases and streams of tokens.

Everything here belongs to one event loop. Knows nothing about threads, steps or torch.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol, Self, cast

from service.decoding.params import AlignParams, DetectParams, SequenceParams
from service.decoding.words import Alignment
from service.engine.types import (
    Answer,
    LanguageProbabilities,
    SessionClosed,
    Step,
    Task,
    TokenStep,
    WindowInput,
)
from service.errors import ServiceError


class Port(Protocol):
    """What sessions need of the engine. Every call returns at once."""

    def open_window(self, session: Session, window_input: WindowInput) -> int:
        """Register a window and return its id."""
        ...

    def submit(self, window_id: int, task: Task) -> tuple[int, TokenStream]:
        """Start to do something with a window -> the sequence's id and its steps."""
        ...

    def forget(self, sequence_id: int) -> None:
        """Deliver nothing more to a sequence's stream."""
        ...

    def close_window(self, window_id: int) -> None:
        """Give the window's slot and row back before the next step."""
        ...

    def leave(self, session: Session) -> None:
        """Give the permit back."""
        ...

    def fair_share(self, width: int) -> int:
        """Return how many windows of `width` hypotheses one request may decode at once, now."""
        ...


class TokenStream:
    """The steps of one sequence, as they come: an async iterator that ends after `finish`.

    It holds at most `max_tokens` steps, however slowly they are read.
    """

    def __init__(self) -> None:
        self._events: asyncio.Queue[Step | ServiceError] = asyncio.Queue()
        self._ended = False

    def feed(self, step: Step) -> None:
        """Add a step."""
        self._events.put_nowait(step)

    def fail(self, error: ServiceError) -> None:
        """Raise `error` in the reader, after the steps that it has not read yet."""
        self._events.put_nowait(error)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TokenStep:
        """Return the next step.

        Raises:
            EngineDead, EngineDraining: if the engine fails or stops meanwhile.
            SessionClosed: if the window or its session is closed meanwhile, or decoded again.
        """
        if self._ended:
            raise StopAsyncIteration
        return cast("TokenStep", await self._next())

    async def answer(self) -> LanguageProbabilities | Alignment:
        """Return what a detection or an alignment came to.

        Raises:
            ServiceError: as iterating does, and the error that the step carries.
        """
        step = await self._next()
        if step.error is not None:
            raise step.error
        return cast("Answer", step).result

    async def _next(self) -> Step:
        event = await self._events.get()
        if isinstance(event, ServiceError):
            self._ended = True
            raise event
        self._ended = event.finish is not None
        return event


class WindowLease:
    """One window of audio: encoded once, decoded as often as needed, until it is closed.

    An async context manager. It takes its place in the queue when it is decoded first, and holds
    its slot from then on.
    """

    def __init__(self, port: Port, window_id: int) -> None:
        self._port = port
        self._window_id = window_id
        self._closed = False
        self._current: tuple[int, TokenStream] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def decode(self, params: SequenceParams) -> TokenStream:
        """Start to decode now, and return the steps as an async iterator.

        Whatever was decoding on this window before is cancelled.

        Raises:
            SessionClosed: if the window is closed.
            EngineDead, EngineDraining: if the engine has failed or stopped.
        """
        return self._submit(params)

    async def detect(self) -> LanguageProbabilities:
        """Return the probability of each language of the model, by its token.

        Raises:
            SessionClosed, EngineDead, EngineDraining: as `decode`.
            DecodingFailed: if the model's output is not a number, or it has no languages.
        """
        return cast("LanguageProbabilities", await self._submit(DetectParams()).answer())

    async def align(self, params: AlignParams) -> Alignment:
        """Return where the tokens of a text lie in the window.

        Raises:
            SessionClosed, EngineDead, EngineDraining: as `decode`.
            DecodingFailed: if the model's output is not a number, or the text does not fit.
        """
        return cast("Alignment", await self._submit(params).answer())

    def _submit(self, task: Task) -> TokenStream:
        if self._closed:
            raise SessionClosed("the window is closed")
        self._cancel("the window is decoded again")
        self._current = self._port.submit(self._window_id, task)
        return self._current[1]

    def close(self) -> None:
        """Cancel what decodes; the slot is free before the next step. May be called again."""
        if not self._closed:
            self._closed = True
            self._port.close_window(self._window_id)
            self._cancel("the window is closed")

    def _cancel(self, reason: str) -> None:
        if self._current is not None:
            sequence_id, stream = self._current
            self._current = None
            self._port.forget(sequence_id)
            stream.fail(SessionClosed(reason))


class Session:
    """A request's permit to use the engine, until it is closed.

    Attributes:
        opened_at: `time.monotonic()` of the permit.
        queued_at: `time.monotonic()` of its first window, None until then.
        began_at: that of the step that gave its first token, None until then.
        n_windows: windows leased so far.
    """

    def __init__(self, port: Port, opened_at: float) -> None:
        self.opened_at = opened_at
        self.queued_at: float | None = None
        self.began_at: float | None = None
        self.n_windows = 0
        self._port = port
        self._leases: list[WindowLease] = []
        self._closed = False

    @property
    def is_waiting(self) -> bool:
        """Whether no token has come yet."""
        return self.began_at is None

    @property
    def waited_s(self) -> float | None:
        """From the first window to the step that gave the first token; None until then."""
        if self.began_at is None or self.queued_at is None:
            return None
        return self.began_at - self.queued_at

    def window(self, window_input: WindowInput) -> WindowLease:
        """Return a lease on a window; it is an async context manager.

        Raises:
            SessionClosed: if the session is closed.
        """
        if self._closed:
            raise SessionClosed("the session is closed")
        if self.queued_at is None:
            self.queued_at = time.monotonic()
        self._leases = [lease for lease in self._leases if not lease._closed]
        lease = WindowLease(self._port, self._port.open_window(self, window_input))
        self._leases.append(lease)
        self.n_windows += 1
        return lease

    def fair_share(self, width: int = 1) -> int:
        """Return how many windows this request may decode at once, now; one at least.

        Args:
            width: hypotheses of each.
        """
        return self._port.fair_share(width)

    def close(self) -> None:
        """Cancel everything and give the permit back. May be called again."""
        if not self._closed:
            self._closed = True
            for lease in self._leases:
                lease.close()
            self._port.leave(self)
