"""Runs the engine's core in a process of its own, which has an interpreter and a lock of its own.

The two talk by pickles over a socket. Samples go beside their pickle and are read where they stay:
who waits has few copies. The program at the other end is ours, so what it says is taken as our own
memory is. It ends when the socket does: whatever becomes of this process, nothing of that one is
left.

Knows nothing about torch, models or HTTP, nor what the program is told to load.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import cast

from service.engine.messages import Ended, Event, Message
from service.engine.scheduler import SchedulerConfig
from service.errors import EngineDead

logger = logging.getLogger(__name__)

NUMBER = struct.Struct("<Q")
"""How many parts follow, and then the length of each."""
_END_S = 1.0
"""For a process whose socket has ended to end too."""


def packed(value: object) -> list[bytes | memoryview]:
    """Return what is sent for a value: a pickle after the lengths, and then its arrays."""
    arrays: list[pickle.PickleBuffer] = []
    data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL, buffer_callback=arrays.append)
    raw = [array.raw() for array in arrays]
    numbers = (1 + len(raw), len(data), *(each.nbytes for each in raw))
    return [b"".join(map(NUMBER.pack, numbers)) + data, *raw]


def unpacked(parts: Sequence[bytearray]) -> object:
    """Return the value of a pickle and its arrays, which are used as they are."""
    return pickle.loads(parts[0], buffers=parts[1:])  # noqa: S301 - from our own process


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a program says when it has loaded what it was told to.

    Attributes:
        config: what is shared out there.
        details: what else there is to know.
    """

    config: SchedulerConfig
    details: object


class ProcessHost:
    """Runs an `EngineWorker` in a process; see `Host`.

    Its calls are for the event loop that it was made on.
    """

    def __init__(self, process: subprocess.Popen[bytes], link: _Link) -> None:
        self._process = process
        self._link = link
        self._config: SchedulerConfig | None = None

    @classmethod
    async def start_program(cls, command: Sequence[str], hidden: Iterable[str] = ()) -> ProcessHost:
        """Start a program, which then waits for its errand.

        Args:
            command: of the program, which finds modules where this process does; the descriptor of
                its end of the socket is added.
            hidden: variables of this process's environment that are not in its own.

        Raises:
            EngineDead: if it cannot be started.
        """
        process, ours = _started(command, hidden)
        loop = asyncio.get_running_loop()
        _, link = await loop.create_unix_connection(lambda: _Link(process), sock=ours)
        return cls(process, link)

    async def load(self, errand: object) -> object:
        """Let the program load something -> what it says of it.

        Raises:
            EngineDead: if it ends meanwhile.
            Exception: what it says that it failed of.
        """
        self._link.write(errand)
        answer = await self._link.first
        if isinstance(answer, Ended):
            raise EngineDead(f"the engine has failed ({answer.failure})")
        if isinstance(answer, Exception):
            raise answer
        loaded = cast("Loaded", answer)
        self._config = loaded.config
        return loaded.details

    @property
    def config(self) -> SchedulerConfig:
        """What is shared out there."""
        if self._config is None:
            raise RuntimeError("nothing has been loaded")
        return self._config

    def start(self, tell: Callable[[Event], None]) -> None:
        """Hear from now on what happens there; it warms up as soon as it has loaded."""
        self._link.listen(tell)

    def send(self, message: Message) -> None:
        """Ask for something."""
        self._link.write(message)

    def join(self) -> None:
        """Leave no process."""
        self.kill()

    def kill(self) -> None:
        """End the process now. Idempotent."""
        self._link.leave()
        self._process.kill()
        self._process.wait()


def _started(
    command: Sequence[str], hidden: Iterable[str]
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    unseen = set(hidden)
    environment = {name: value for name, value in os.environ.items() if name not in unseen}
    environment["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, sys.path))
    ours, theirs = socket.socketpair()
    with theirs:
        try:
            process = subprocess.Popen(  # noqa: S603 - our own program
                [*command, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=environment,
                process_group=0,  # what a terminal sends is for this process
            )
        except OSError as error:
            ours.close()
            raise EngineDead(f"the engine's process could not be started: {error}") from error
    return process, ours


class _Link(asyncio.Protocol):
    """Our end of the socket.

    Attributes:
        first: what is said first.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.first: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._process = process
        self._transport: asyncio.Transport | None = None
        self._tell: Callable[[Event], None] | None = None
        self._untold: list[Event] = []
        self._unread = bytearray()
        self._is_over = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def write(self, value: object) -> None:
        if self._transport is not None and not self._transport.is_closing():
            for part in packed(value):
                self._transport.write(part)

    def listen(self, tell: Callable[[Event], None]) -> None:
        """Tell what has been said since the first, and what will be."""
        self._tell = tell
        while self._untold:
            tell(self._untold.pop(0))

    def leave(self) -> None:
        """Close the socket; that the process ends is no surprise then."""
        self._is_over = True
        if self._transport is not None:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._unread += data
        while (parts := self._parts()) is not None:
            self._hear(unpacked(parts))

    def _parts(self) -> list[bytearray] | None:
        """Take the parts of the next value from what is unread, if they are all there."""
        unread, size = self._unread, NUMBER.size
        if len(unread) < size:
            return None
        at = size * (1 + NUMBER.unpack_from(unread)[0])
        if len(unread) < at:
            return None
        lengths = [n for (n,) in NUMBER.iter_unpack(unread[size:at])]
        if len(unread) < at + sum(lengths):
            return None
        parts = []
        for length in lengths:
            parts.append(unread[at : at + length])
            at += length
        del unread[:at]
        return parts

    def connection_lost(self, exc: Exception | None) -> None:
        if self._is_over:
            return
        try:
            code = self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        logger.critical("the engine's process has ended, with code %d", code)
        self._hear(Ended(f"its process ended with code {code}"))

    def _hear(self, value: object) -> None:
        if not self.first.done():
            self.first.set_result(value)
            return
        event = cast("Event", value)
        self._is_over |= isinstance(event, Ended)
        if self._tell is None:
            self._untold.append(event)
        else:
            self._tell(event)
