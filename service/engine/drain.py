"""How fast requests get through when there are enough of them. Knows nothing about who they are.

Holds no clock: it is told the time.
"""

from __future__ import annotations

import math

_HORIZON_S = 30.0
"""What is older than a few times this no longer counts."""


class DrainRate:
    """Departures a second while the engine had enough to do.

    Departures, and the seconds in which they happened, fade at the same pace: their quotient
    follows the last half minute under load. Time without load neither counts nor fades, so what
    was measured in the last rush holds at the beginning of the next one.
    """

    def __init__(self) -> None:
        self._departures = 0.0
        self._busy_s = 0.0
        self._at: float | None = None

    def advance(self, now: float, *, busy: bool) -> None:
        """Let the time go on to `now`.

        Args:
            now: in seconds.
            busy: whether there was enough to do since the last call.
        """
        if busy and self._at is not None:
            kept = math.exp((self._at - now) / _HORIZON_S)
            self._departures *= kept
            self._busy_s = self._busy_s * kept + _HORIZON_S * (1 - kept)
        self._at = now

    def departed(self) -> None:
        """Count a request that has left now."""
        self._departures += 1

    def interval_s(self, expected_s: float) -> float:
        """Return the seconds between two departures.

        Args:
            expected_s: what to expect where little is measured; it weighs as much as one departure.
        """
        return (self._busy_s + expected_s) / (self._departures + 1)
