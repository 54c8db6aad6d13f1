"""Who may use the engine now, and when a place will be free. Knows nothing about threads.

Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from service.errors import EngineBusy
from service.metrics import Metrics

if TYPE_CHECKING:
    from service.engine.session import Session

_RETRY_AFTER_S = (1.0, 60.0)
_SMOOTHING = 0.2


class Permits:
    """The sessions that are open, `limit` at most.

    Args:
        limit: sessions at once, those that wait included.
        metrics: where they are counted.

    Attributes:
        vacant: set while no session is open.
    """

    def __init__(self, limit: int, metrics: Metrics) -> None:
        self.limit = limit
        self.vacant = asyncio.Event()
        self.vacant.set()
        self._metrics = metrics
        self._open: set[Session] = set()
        self._mean_s: float | None = None
        metrics.queue_capacity.set(limit)

    def __len__(self) -> int:
        return len(self._open)

    def check(self) -> None:
        """Do nothing if there is a place.

        Raises:
            EngineBusy: if there is none; says when one is expected.
        """
        if len(self._open) >= self.limit:
            raise EngineBusy(
                f"{self.limit} requests are running or waiting, which is the limit",
                retry_after_s=self._retry_after_s(),
            )

    def add(self, session: Session) -> None:
        """Give a session a place."""
        self._open.add(session)
        self.vacant.clear()
        self.count()

    def remove(self, session: Session) -> None:
        """Take a session's place back, and learn from it how long sessions last."""
        lasted_s = time.monotonic() - session.opened_at
        mean_s = lasted_s if self._mean_s is None else self._mean_s
        self._mean_s = mean_s + _SMOOTHING * (lasted_s - mean_s)
        self._open.discard(session)
        self.count()
        if not self._open:
            self.vacant.set()

    def count(self) -> None:
        """Set the gauges; also to be called when a session gets its first token."""
        self._metrics.requests_running.set(len(self._open))
        self._metrics.requests_waiting.set(sum(session.is_waiting for session in self._open))

    def _retry_after_s(self) -> float:
        """Return when a place should be free: sessions last their mean, and end one by one.

        Before the first one has ended, their mean age stands in.
        """
        now = time.monotonic()
        ages_s = [now - session.opened_at for session in self._open]
        lasting_s = self._mean_s if self._mean_s is not None else sum(ages_s) / len(ages_s)
        shortest_s, longest_s = _RETRY_AFTER_S
        return min(max(lasting_s / len(ages_s), shortest_s), longest_s)
