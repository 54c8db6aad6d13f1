"""Decoding children that are forked instead of executed; everything else is as in the service."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from asyncio.subprocess import DEVNULL
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from service.audio import sandbox
from service.audio.sandbox import DecodingChild
from tests.fuzz.zygote import MESSAGE_BYTES

PROGRAM = Path(__file__).with_name("zygote.py")


class Forked:
    """A process that the zygote has forked, as asyncio has its own.

    Attributes:
        pid, stdin, stdout, returncode: as of `asyncio.subprocess.Process`.
    """

    def __init__(self, pid: int, stdin: asyncio.StreamWriter, stdout: asyncio.StreamReader) -> None:
        self.pid, self.stdin, self.stdout = pid, stdin, stdout
        self.returncode: int | None = None
        self.ended = asyncio.Event()

    async def wait(self) -> int:
        """Return its code when it has ended."""
        await self.ended.wait()
        assert self.returncode is not None
        return self.returncode


class ForkedChild(DecodingChild):
    """One child, ready for one file."""

    zygote: Zygote

    def kill(self) -> None:
        """End the process and whatever it started: the zygote knows whether it is still there."""
        if self._process.returncode is None:
            self.zygote.tell(f"kill {self.pid}".encode())


class Zygote:
    """The other end of `zygote.py`."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._asked: deque[asyncio.Future[int]] = deque()
        self._living: dict[int, Forked] = {}
        self._codes: dict[int, int] = {}
        self._ready = asyncio.Event()
        asyncio.get_running_loop().add_reader(control, self._hear)

    async def until_ready(self) -> None:
        """Wait until everything is loaded."""
        await self._ready.wait()

    def tell(self, message: bytes, descriptors: tuple[int, ...] = ()) -> None:
        """Send a message; none is longer than what the socket takes at once."""
        socket.send_fds(self._control, [message], descriptors)

    async def spawn(self) -> DecodingChild:
        """Return a child that has said that it is ready."""
        loop = asyncio.get_running_loop()
        (its_stdin, our_stdin), (our_stdout, its_stdout) = os.pipe(), os.pipe()
        asked: asyncio.Future[int] = loop.create_future()
        self._asked.append(asked)
        self.tell(b"fork", (its_stdin, its_stdout))
        os.close(its_stdin)
        os.close(its_stdout)
        reader = asyncio.StreamReader()
        heard, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(our_stdout, "rb")
        )
        transport, protocol = await loop.connect_write_pipe(
            lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()),
            os.fdopen(our_stdin, "wb"),
        )
        writer = asyncio.StreamWriter(transport, protocol, None, loop)
        try:
            pid = await asyncio.shield(asked)
        except BaseException:  # nobody waits for it: it ends where its input does
            transport.abort()
            heard.close()
            raise
        process: Any = Forked(pid, writer, reader)
        self._living[pid] = process
        if pid in self._codes:  # it has ended before we came to look
            self._note_end(pid, self._codes.pop(pid))
        child = ForkedChild(process)
        child.zygote = self
        try:
            assert await child._receive() == (b"R", b"")
        except BaseException:
            await child.reap()
            raise
        return child

    def _hear(self) -> None:
        what, *rest = self._control.recv(MESSAGE_BYTES).decode().split() or ["gone"]
        if what == "ready":
            self._ready.set()
        elif what == "forked":
            self._asked.popleft().set_result(int(rest[0]))
        elif what == "ended":
            self._note_end(int(rest[0]), int(rest[1]))
        else:
            asyncio.get_running_loop().remove_reader(self._control)

    def _note_end(self, pid: int, code: int) -> None:
        process = self._living.pop(pid, None)
        if process is None:
            self._codes[pid] = code
        else:
            process.returncode = code
            process.ended.set()


@contextlib.asynccontextmanager
async def forking() -> AsyncIterator[None]:
    """Let decoders fork their children for as long as the context lasts."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, its:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-I", str(PROGRAM), str(sandbox._PROGRAM), str(its.fileno()),
            stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL, pass_fds=[its.fileno()],
            env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}, cwd="/",
        )  # fmt: skip
        its.close()
        zygote = Zygote(ours)
        try:
            async with asyncio.timeout(sandbox._START_TIMEOUT_S):
                await zygote.until_ready()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(DecodingChild, "spawn", zygote.spawn)
                yield
        finally:
            asyncio.get_running_loop().remove_reader(ours)
            ours.close()
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
