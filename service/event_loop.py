"""An event loop that takes what arrives together while there is a crowd.

Knows nothing about HTTP or engines.
"""

from __future__ import annotations

import asyncio
import os
import selectors
import socket
import time
from collections.abc import Callable

PAUSE_S = 0.01
"""How much later what is due may be while there is a crowd."""


NICENESS = 5
"""Of the loop's thread, beyond that of the engine's process."""


class CrowdSelector(selectors.DefaultSelector):
    """Lets events come for a moment before it looks at them, while there is a crowd.

    Every time that the loop wakes it takes a core, which the engine's process may want. With
    hundreds of requests a second that are refused, that costs more than to refuse them.

    Args:
        is_crowded: tells whether there is a crowd.
    """

    def __init__(self, is_crowded: Callable[[], bool]) -> None:
        super().__init__()
        self._is_crowded = is_crowded

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready; a loop that has something to do at once does not wait."""
        if (timeout is None or timeout > 0) and self._is_crowded():
            time.sleep(PAUSE_S)
            timeout = None if timeout is None else max(0.0, timeout - PAUSE_S)
        return super().select(timeout)


def new_event_loop(is_crowded: Callable[[], bool]) -> asyncio.AbstractEventLoop:
    """Return a loop that is patient in a crowd."""
    return asyncio.SelectorEventLoop(CrowdSelector(is_crowded))


def give_way() -> None:
    """Let the engine's process, which must have been started, go first where cores are few.

    The system would otherwise take the core from it whenever something arrives. To be called once,
    on the loop's thread; those that it starts later are as nice.
    """
    if hasattr(os, "nice"):
        os.nice(NICENESS)


def has_unread(transport: asyncio.Transport) -> bool:
    """Tell whether bytes have come on a connection that its loop has not looked at yet."""
    own = transport.get_extra_info("socket")
    if own is None:
        return False
    with own.dup() as same:
        try:
            return bool(same.recv(1, socket.MSG_PEEK))
        except OSError:  # there is nothing yet, or no connection any more
            return False
