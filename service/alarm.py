"""An alarm that is set and cleared far more often than it goes off. Knows nothing about HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Alarm:
    """Calls back at a moment, unless that is put off or cleared before.

    To set a timer of the loop and to cancel it costs more than what it watches over. So one timer
    stays, and when it is due it looks whether the alarm is. Only an earlier one needs another.

    Args:
        loop: whose clock it goes by.

    Attributes:
        at: the loop's time when it goes off, None where it is not set.
    """

    __slots__ = ("_call", "_loop", "_timer", "at")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.at: float | None = None
        self._loop = loop
        self._call: Callable[[], object] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def set(self, seconds: float, call: Callable[[], object]) -> None:
        """Let `call` be called after so long, and whatever was to be called before not."""
        self.at = at = self._loop.time() + seconds
        self._call = call
        if self._timer is None:
            self._timer = self._loop.call_at(at, self._look)
        elif self._timer.when() > at:
            self._timer.cancel()
            self._timer = self._loop.call_at(at, self._look)

    def clear(self) -> None:
        """Let nothing be called."""
        self.at = self._call = None

    def close(self) -> None:
        """Let nothing be called, and leave nothing to the loop."""
        self.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self.at is None or self._call is None:
            return
        if self.at > self._loop.time():
            self._timer = self._loop.call_at(self.at, self._look)
            return
        call = self._call
        self.clear()
        call()
