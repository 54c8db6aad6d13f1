"""Notices that nobody is at work any more. Knows nothing about what is done then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType


class Idle:
    """Entered by each piece of work; calls something once nobody has been inside for a while.

    To be used on one event loop.

    Args:
        then: called on the loop, once for each time that the last one leaves.
        after_s: how long nobody may have entered by then.
    """

    def __init__(self, then: Callable[[], object], after_s: float) -> None:
        self._then = then
        self._after_s = after_s
        self._inside = 0
        self._due: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        self._inside += 1
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._inside -= 1
        if not self._inside:
            self._due = asyncio.get_running_loop().call_later(self._after_s, self._then)
