"""Runs the app: listens first, loads after, and leaves in order.

On SIGTERM or SIGINT the service is marked as draining and goes on listening, so that `/readyz` can
say so and new work gets its 503; it ends when the last response is out, or when the grace is over.
A second signal ends it at once. uvicorn alone would close its listener first.

Knows nothing about models, audio or routes.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import os
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any, NoReturn

import uvicorn

from service.api.deps import Services
from service.engine.engine import EngineState
from service.event_loop import new_event_loop
from service.protocol import AskAtDoor, BoundedProtocol

logger = logging.getLogger(__name__)

BACKLOG = 2048
LAST_WORDS_S = 2.0
"""How long streams may take to say that the engine is dead, or that the grace is over."""


class ListenError(Exception):
    """The address cannot be listened on; the message says which and why."""


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Deadlines of the server.

    Attributes:
        header_timeout_s: for the head of a request to arrive.
        idle_connection_timeout_s: between two requests on a connection that is kept open.
        drain_timeout_s: from the first signal to the end of the last response.
    """

    header_timeout_s: float
    idle_connection_timeout_s: float
    drain_timeout_s: float


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket: connections wait in its backlog until the loop runs.

    Raises:
        ListenError: if the port is taken, the address is not ours, or the name is unknown.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            bound.listen(BACKLOG)
        except OSError:
            bound.close()
            raise
    except OSError as error:
        raise ListenError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return bound


def url_of(bound: socket.socket) -> str:
    """Return the address to type into a client on this machine."""
    host, port = bound.getsockname()[:2]
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - compared, not bound
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(bound: socket.socket) -> bool:
    """Tell whether only this machine reaches the address."""
    return ipaddress.ip_address(bound.getsockname()[0].partition("%")[0]).is_loopback


class Server(uvicorn.Server):
    """uvicorn with our own idea of an orderly end.

    Args:
        app: the ASGI app over `services`.
        services: told to drain; their state decides when to leave.
        config: deadlines.
        door: refuses requests that `app` need not hear of.
        on_ready: called once, when the service takes work for the first time.
    """

    def __init__(
        self,
        app: Callable[..., Any],
        services: Services,
        config: ServerConfig,
        door: AskAtDoor,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        protocol: Any = BoundedProtocol.with_settings(config.header_timeout_s, door)
        super().__init__(
            uvicorn.Config(
                app,
                http=protocol,
                ws="none",
                lifespan="on",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_keep_alive=math.ceil(config.idle_connection_timeout_s),
                timeout_graceful_shutdown=math.ceil(LAST_WORDS_S),
            )
        )
        self.exit_code = 0
        self._services = services
        self._drain_timeout_s = config.drain_timeout_s
        self._on_ready: Callable[[], None] | None = on_ready
        self._signals = 0
        self._leave_at: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Count a signal; the next tick acts on it, outside the signal handler."""
        self._signals += 1
        if self._signals > 1:
            self.force_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Look at the state ten times a second; return whether to leave now."""
        if await super().on_tick(counter) or self.force_exit:
            return True
        state = self._services.state
        if state is EngineState.READY and self._on_ready is not None:
            self._on_ready()
            self._on_ready = None
        if state is EngineState.DEAD:
            return self._mourn()
        if self._signals:
            return await self._drain()
        return False

    def _mourn(self) -> bool:
        self.exit_code = 1
        if self._leave_at is None:
            self._leave_at = time.monotonic() + LAST_WORDS_S
        return not self.server_state.tasks or time.monotonic() > self._leave_at

    async def _drain(self) -> bool:
        if self._leave_at is None:
            self._services.drain()
            self._leave_at = time.monotonic() + self._drain_timeout_s
            logger.info("draining: %d responses still run", len(self.server_state.tasks))
        if not self.server_state.tasks:
            return True
        if time.monotonic() < self._leave_at:
            return False
        self.exit_code = 1
        logger.warning(
            "%d responses did not end within %g s and are cut off",
            len(self.server_state.tasks),
            self._drain_timeout_s,
        )
        if self._services.serving is not None:
            await self._services.serving.engine.stop(0.0)
        return True


def run(server: Server, bound: socket.socket, is_crowded: Callable[[], bool]) -> NoReturn:
    """Serve on `bound` until told to stop, and leave the process with the exit code.

    Where many are refused, what arrives is taken together (`service/event_loop.py`).

    What has to end in order has ended by then. The interpreter's own teardown is left out: it would
    wait for threads that still work. The engine's process, if it is still there, ends with ours.
    """
    with asyncio.Runner(loop_factory=partial(new_event_loop, is_crowded)) as runner:
        runner.run(_serve(server, bound))
    raise AssertionError("the process has ended")


async def _serve(server: Server, bound: socket.socket) -> None:
    await server.serve(sockets=[bound])
    code = server.exit_code
    if server.force_exit:
        logger.warning("a second signal: leaving at once")
        code = 1
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)
