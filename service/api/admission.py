"""The budget of decoded audio held in memory. Knows nothing about engines or HTTP.

Requests are bounded by the engine's permits; this bounds what they hold, 64 kB a second of audio.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.errors import EngineBusy

if TYPE_CHECKING:
    from prometheus_client import Gauge


class AudioBudget:
    """Seconds of audio that all requests together may hold."""

    def __init__(self, max_s: float, gauge: Gauge) -> None:
        self.max_s = max_s
        self._held_s = 0.0
        gauge.set_function(lambda: self._held_s)

    @property
    def held_s(self) -> float:
        """Return the seconds held now by all requests."""
        return self._held_s

    def reserve(self) -> AudioReservation:
        """Return a reservation of nothing yet."""
        return AudioReservation(self)

    def _add(self, seconds: float) -> None:
        self._held_s += seconds


class AudioReservation:
    """One request's share of the budget."""

    def __init__(self, budget: AudioBudget) -> None:
        self._budget = budget
        self._held_s = 0.0
        self._released = False

    def grow_to(self, total_s: float) -> None:
        """Reserve so much in all, as the audio arrives.

        Raises:
            EngineBusy: if the budget does not hold it; what was reserved stays reserved.
        """
        more_s = total_s - self._held_s
        if self._released or more_s <= 0:
            return
        budget = self._budget
        if budget.held_s + more_s > budget.max_s:
            raise EngineBusy(
                f"the service holds {budget.held_s:.0f} s of audio of at most {budget.max_s:.0f} s"
                f" and cannot take {total_s:.0f} s more now",
                retry_after_s=5.0,
            )
        budget._add(more_s)
        self._held_s = total_s

    def release(self) -> None:
        """Give everything back. Idempotent."""
        if not self._released:
            self._released = True
            self._budget._add(-self._held_s)
