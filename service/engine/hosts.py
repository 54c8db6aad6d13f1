"""Where the engine's core may run. Knows nothing about what is asked of it."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Protocol

from service.engine.core import EngineCore
from service.engine.messages import Event, Message
from service.engine.scheduler import SchedulerConfig
from service.engine.worker import EngineWorker

_JOIN_S = 1.0


class Host(Protocol):
    """Runs an `EngineWorker` beside an event loop. Every call returns at once, but for `join`."""

    @property
    def config(self) -> SchedulerConfig:
        """What is shared out there."""
        ...

    def start(self, tell: Callable[[Event], None]) -> None:
        """Start, once; `tell` is called on the running event loop with each event."""
        ...

    def send(self, message: Message) -> None:
        """Ask for something; what has ended is told nothing."""
        ...

    def join(self) -> None:
        """Leave nothing behind: it was told to stop, and has ended or does not come to it."""
        ...


class ThreadHost:
    """Runs it on a thread of this process.

    Args:
        core: touched by that thread only from `start` on.

    Attributes:
        inbox: where messages wait for the thread.
        thread: None before the start.
    """

    def __init__(self, core: EngineCore) -> None:
        self.config = core.scheduler.config
        self.inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.thread: threading.Thread | None = None
        self._core = core

    def start(self, tell: Callable[[Event], None]) -> None:
        """Start the thread, which warms the model up first."""
        if self.thread is not None:
            raise RuntimeError("the engine has been started already")
        loop = asyncio.get_running_loop()

        def post(event: Event) -> None:
            """Tell it on the loop; if that is closed, nobody is left to tell."""
            if not loop.is_closed():
                with contextlib.suppress(RuntimeError):  # it was closed just now
                    loop.call_soon_threadsafe(tell, event)

        worker = EngineWorker(self._core, self.inbox, post)
        self.thread = threading.Thread(target=worker.run, name="engine", daemon=True)
        self.thread.start()

    def send(self, message: Message) -> None:
        """Ask for something."""
        self.inbox.put(message)

    def join(self) -> None:
        """Wait for the thread; one that does not come back cannot be ended."""
        if self.thread is not None:
            self.thread.join(_JOIN_S)
