"""The budget of decoded audio held in memory. Knows nothing about engines or HTTP.

Requests are bounded by the engine's permits; this bounds what they hold, 64 kB a second of audio.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from service.errors import EngineBusy

if TYPE_CHECKING:
    from prometheus_client import Gauge


class AudioBudget:
    """Seconds of audio that all requests together may hold.

    Args:
        max_s: so many.
        gauge: shows what is held.
        retry_after_s: tells when one for whom there is no room should come back.
    """

    def __init__(self, max_s: float, gauge: Gauge, retry_after_s: Callable[[], float]) -> None:
        self.max_s = max_s
        self._retry_after_s = retry_after_s
        self._shares: dict[AudioReservation, float] = {}
        gauge.set_function(lambda: self.held_s)

    @property
    def held_s(self) -> float:
        """Return the seconds held now by all requests."""
        return sum(tuple(self._shares.values()))

    def reserve(self) -> AudioReservation:
        """Return a reservation of nothing yet."""
        reservation = AudioReservation(self)
        self._shares[reservation] = 0.0
        return reservation

    def _grow(self, reservation: AudioReservation, total_s: float) -> None:
        share_s = self._shares.get(reservation)
        if share_s is None or total_s <= share_s:
            return
        others_s = self.held_s - share_s
        if others_s + total_s > self.max_s:
            raise EngineBusy(
                f"other requests hold {others_s:.0f} s of audio, and with {total_s:.0f} s more the"
                f" limit of {self.max_s:.0f} s would be passed",
                retry_after_s=self._retry_after_s(),
            )
        self._shares[reservation] = total_s

    def _release(self, reservation: AudioReservation) -> None:
        self._shares.pop(reservation, None)


class AudioReservation:
    """One request's share of the budget."""

    def __init__(self, budget: AudioBudget) -> None:
        self._budget = budget

    def grow_to(self, total_s: float) -> None:
        """Reserve so much in all, as the audio arrives.

        Raises:
            EngineBusy: if the budget does not hold it; what was reserved stays reserved.
        """
        self._budget._grow(self, total_s)

    def release(self) -> None:
        """Give everything back. Idempotent."""
        self._budget._release(self)
