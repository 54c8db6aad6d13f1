"""The decoding children: processes that turn one file each into PCM, within bounds.

Knows nothing about formats or limits on audio. A child (`child.py`) is executed, never forked from
a process that holds a model; it imports neither torch nor the service, limits its own memory, CPU
time and files before it sees the upload, and is killed with its process group as soon as it is no
longer wanted. That makes it resource-bounded. It is no sandbox: system calls are not filtered.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import struct
import sys
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from service.errors import InvalidAudio, RequestTimeout, Unavailable

_PROGRAM = Path(__file__).with_name("child.py")
_HEADER = struct.Struct("<cI")
_DECODED_BYTES = struct.Struct("<Q")
_MAX_FRAME_BYTES = 1 << 26
"""No frame of an honest child is larger: two seconds of PCM, or what one packet becomes."""
_START_TIMEOUT_S = 60.0
_WRITE_BYTES = 1 << 18
_KEPT_VARIABLES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


def child_environment() -> dict[str, str]:
    """Return the variables that a child is given: where libraries are, and one thread for them.

    Some ask for more than there are CPUs, whatever the default is; the limit holds for them too.
    """
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    return kept | {"OMP_NUM_THREADS": "1", "OMP_THREAD_LIMIT": "1", "OPENBLAS_NUM_THREADS": "1"}


class Pcm(NamedTuple):
    """A piece of decoded audio.

    Attributes:
        decoded_bytes: bytes that the file has become so far, as f32 at its own rate and channels.
        samples: the bytes of f32 samples, 16 kHz, mono.
    """

    decoded_bytes: int
    samples: bytes


class DecodingChild:
    """One child process, ready for one file."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018
        self._process = process
        self._stdin = process.stdin
        self._stdout = process.stdout

    @classmethod
    async def spawn(cls) -> DecodingChild:
        """Start a child and wait until it has imported what it needs.

        Raises:
            Unavailable: if the process cannot be started, or does not become ready.
        """
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-I",
                str(_PROGRAM),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env=child_environment(),
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise Unavailable(f"An audio decoder could not be started: {error}.") from error
        child = cls(process)
        try:
            async with asyncio.timeout(_START_TIMEOUT_S):
                ready = await child._receive()
        except TimeoutError:
            ready = None
        except BaseException:
            await child.reap()
            raise
        if ready != (b"R", b""):
            await child.reap()
            raise Unavailable("An audio decoder did not start.")
        return child

    @property
    def pid(self) -> int:
        """The process, which is also its group."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it still runs, as far as is known."""
        return self._process.returncode is None and not self._stdout.at_eof()

    async def decode(self, job: Mapping[str, object], data: bytes) -> AsyncGenerator[Pcm, None]:
        """Send the file and yield its PCM. A child takes one file.

        Args:
            job: the fields of `Job` in `child.py`.
            data: the whole file.

        Raises:
            InvalidAudio: if the child refuses the file, or dies over it.
            RequestTimeout: if it dies of its limit on CPU time.
        """
        with contextlib.suppress(ConnectionError):  # it died: what it said last is still to be read
            await self._send(job, data)
        while (frame := await self._receive()) is not None:
            kind, payload = frame
            if kind == b"P" and len(payload) >= _DECODED_BYTES.size:
                (decoded_bytes,) = _DECODED_BYTES.unpack_from(payload)
                yield Pcm(decoded_bytes, payload[_DECODED_BYTES.size :])
            elif kind == b"D":
                return
            elif kind == b"E":
                message = payload.decode(errors="replace")
                raise InvalidAudio(f"The audio cannot be decoded. {message}")
            else:
                break
        raise await self._death()

    async def _send(self, job: Mapping[str, object], data: bytes) -> None:
        self._stdin.write(json.dumps(job).encode() + b"\n")
        for start in range(0, len(data), _WRITE_BYTES):
            self._stdin.write(memoryview(data)[start : start + _WRITE_BYTES])
            await self._stdin.drain()
        self._stdin.close()

    async def _receive(self) -> tuple[bytes, bytes] | None:
        """Return the next frame (kind, payload), or None if the child ended or talks nonsense."""
        try:
            kind, length = _HEADER.unpack(await self._stdout.readexactly(_HEADER.size))
            if length > _MAX_FRAME_BYTES:
                return None
            return kind, await self._stdout.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def _death(self) -> InvalidAudio | RequestTimeout:
        """Return the error for a child that ended without its last frame."""
        if self._stdout.at_eof():
            code = await self._process.wait()
        else:
            code = 0
        if code == -signal.SIGXCPU:
            return RequestTimeout("The audio took more CPU time to decode than it may.")
        how = f"exit status {code}" if code >= 0 else f"signal {-code}"
        return InvalidAudio(f"The audio cannot be decoded: the decoder failed over it ({how}).")

    def kill(self) -> None:
        """End the process and whatever it started, now."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def reap(self) -> None:
        """Kill the child and wait until nothing of it is left: no zombie, no open pipe."""
        self.kill()
        if not self._stdin.is_closing():
            self._stdin.transport.abort()
        with contextlib.suppress(ConnectionError):
            while await self._stdout.read(_WRITE_BYTES):
                pass
        await self._process.wait()


class ChildPool:
    """Hands out children, a bounded number at once, with some started ahead of need.

    Args:
        max_children: files that are decoded at once.
        max_idle: children that wait ready, beside those.
    """

    def __init__(self, max_children: int, max_idle: int) -> None:
        self._permits = asyncio.Semaphore(max_children)
        self._max_idle = max_idle
        self._idle: deque[asyncio.Task[DecodingChild]] = deque()
        self._active: set[DecodingChild] = set()
        self._reaping: set[asyncio.Task[None]] = set()
        self._closed = False

    async def start(self) -> None:
        """Start the children that wait, and see one of them ready.

        Raises:
            Unavailable: if children cannot be started here.
        """
        self._closed = False
        self._refill()
        if self._idle:
            await asyncio.shield(self._idle[0])

    async def close(self) -> None:
        """Kill and reap every child."""
        self._closed = True
        for active in self._active:
            active.kill()
        for task in self._idle:
            task.cancel()  # a child that is still starting is killed by it
        for child in await asyncio.gather(*self._idle, return_exceptions=True):
            if isinstance(child, DecodingChild):
                await child.reap()
        self._idle.clear()
        await asyncio.gather(*self._reaping)

    @contextlib.asynccontextmanager
    async def lease(self) -> AsyncIterator[DecodingChild]:
        """Wait for a child of one's own; it is dead when the block is left, however that happens.

        Raises:
            Unavailable: if no child can be started, or the pool is or gets closed.
        """
        async with self._permits:
            child = await self._take()
            self._active.add(child)
            try:
                yield child
            except (InvalidAudio, RequestTimeout) as error:
                if self._closed:
                    raise Unavailable("The service is shutting down.") from error
                raise
            finally:
                child.kill()
                self._active.discard(child)
                await asyncio.shield(self._in_background(child.reap()))

    async def _take(self) -> DecodingChild:
        while not self._closed:
            if not self._idle:
                self._idle.append(asyncio.create_task(DecodingChild.spawn()))
            task = self._idle.popleft()
            try:
                child = await asyncio.shield(task)
            except asyncio.CancelledError:
                self._give_back(task)
                raise
            if child.is_alive:
                self._refill()
                return child
            await child.reap()
        raise Unavailable("The service is shutting down.")

    def _give_back(self, starting: asyncio.Task[DecodingChild]) -> None:
        """Keep a child for the next file, unless others have been started in its place."""
        if len(self._idle) < self._max_idle:
            self._idle.appendleft(starting)
        else:
            self._in_background(_end(starting))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._reaping.add(task)
        task.add_done_callback(self._reaping.discard)
        return task

    def _refill(self) -> None:
        while len(self._idle) < self._max_idle:
            self._idle.append(asyncio.create_task(DecodingChild.spawn()))


async def _end(starting: asyncio.Task[DecodingChild]) -> None:
    """End a child that nobody wants, whether it is ready or not."""
    starting.cancel()
    (child,) = await asyncio.gather(starting, return_exceptions=True)
    if isinstance(child, DecodingChild):
        await child.reap()
