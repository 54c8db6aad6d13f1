"""What the engine can be asked for, and its limits. Knows nothing about how it works."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class EngineState(enum.StrEnum):
    """What the engine can be asked for: everything in READY only."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Limits of the loop's side.

    Attributes:
        max_requests: sessions at once, those that wait included.
    """

    max_requests: int
