"""Who may use the engine now, and when a place will be free. Knows nothing about threads.

Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from service.engine.drain import DrainRate
from service.errors import EngineBusy
from service.metrics import Metrics

if TYPE_CHECKING:
    from service.engine.session import Session

_RETRY_AFTER_S = (1.0, 60.0)
"""OpenAI's client does not follow a longer one."""
_STEP_S = 0.1
"""What is told is rounded up to whole steps of this: who is refused together is told the same."""
_SMOOTHING = 0.2


class Permits:
    """The sessions that are open, `limit` at most.

    Args:
        limit: sessions at once, those that wait included.
        rows: how many of them are decoded at the same time.
        metrics: where they are counted.
        clock: the time in seconds.

    Attributes:
        vacant: set while no session is open.
    """

    def __init__(
        self,
        limit: int,
        rows: int,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit = limit
        self._at_work = min(limit, rows)
        self._clock = clock
        self._drain = DrainRate()
        self.vacant = asyncio.Event()
        self.vacant.set()
        self._metrics = metrics
        self._open: set[Session] = set()
        self._n_waiting = 0
        self._mean_s: float | None = None
        metrics.queue_capacity.set(limit)

    def __len__(self) -> int:
        return len(self._open)

    @property
    def are_all_taken(self) -> bool:
        """Whether there is no place."""
        return len(self._open) >= self.limit

    def check(self) -> None:
        """Do nothing if there is a place.

        Raises:
            EngineBusy: if there is none; says when to come back.
        """
        if self.are_all_taken:
            raise EngineBusy(
                f"{self.limit} requests are running or waiting, which is the limit",
                retry_after_s=self.retry_after_s(),
            )

    def add(self, session: Session) -> None:
        """Give a session a place."""
        self._advance()
        self._open.add(session)
        self.vacant.clear()
        self.count()

    def remove(self, session: Session) -> None:
        """Take a session's place back, and learn from it how fast they get through."""
        now = self._advance()
        if session.queued_at is not None:  # not one that was refused for what it asked
            self._drain.departed()
        if session.began_at is not None:
            lasted_s = now - session.began_at
            mean_s = lasted_s if self._mean_s is None else self._mean_s
            self._mean_s = mean_s + _SMOOTHING * (lasted_s - mean_s)
        self._open.discard(session)
        self.count()
        if not self._open:
            self.vacant.set()

    def count(self) -> None:
        """Set the gauges; also to be called when a session gets its first token."""
        self._n_waiting = sum(session.is_waiting for session in self._open)
        self._metrics.requests_running.set(len(self._open))
        self._metrics.requests_waiting.set(self._n_waiting)

    def retry_after_s(self) -> float:
        """Return when those who wait now should have had their turn, and one more.

        That is their number times the measured time between two departures.
        """
        now = self._advance()
        expected_s = (self._n_waiting + 1) * self._drain.interval_s(self._expected_s(now))
        shortest_s, longest_s = _RETRY_AFTER_S
        return min(max(math.ceil(expected_s / _STEP_S) * _STEP_S, shortest_s), longest_s)

    def _advance(self) -> float:
        """Let the measured time go on to now, and return it.

        It counts while no row is idle for want of requests.
        """
        now = self._clock()
        self._drain.advance(now, busy=len(self._open) >= self._at_work)
        return now

    def _expected_s(self, now: float) -> float:
        """Return the time between two departures by how long a session is at work."""
        lasting_s = self._mean_s
        if lasting_s is None:  # none has ended yet
            ages_s = [now - s.began_at for s in self._open if s.began_at is not None]
            lasting_s = sum(ages_s) / max(1, len(ages_s))
        return lasting_s / self._at_work
