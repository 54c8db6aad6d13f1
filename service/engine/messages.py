"""What the two sides of the engine tell each other: the event loop asks, who has the model answers.

Plain values, so that they can go from one process to another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from service.engine.core import Turn
from service.engine.types import Task, WindowInput
from service.errors import ServiceError


@dataclass(frozen=True, slots=True)
class Open:
    """A window is there.

    Attributes:
        window_id, window_input: its name and its audio.
        rank: how many windows its request has had before it.
    """

    window_id: int
    window_input: WindowInput
    rank: int


@dataclass(frozen=True, slots=True)
class Submit:
    """Something is to be done with a window."""

    sequence_id: int
    window_id: int
    task: Task


@dataclass(frozen=True, slots=True)
class Close:
    """A window's owner is done with it."""

    window_id: int


@dataclass(frozen=True, slots=True)
class Tidy:
    """Nobody is at work: memory that is free may go back to the system."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Nothing more will be asked for."""


Message: TypeAlias = Open | Submit | Close | Tidy | Stop
"""To who holds the model."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What is in use between two turns.

    Attributes:
        rows_used, slots_used, waiting: rows, slots, and windows that wait for theirs.
        taken: messages taken so far.
        has_work: whether another turn begins at once.
    """

    rows_used: int = 0
    slots_used: int = 0
    waiting: int = 0
    taken: int = 0
    has_work: bool = False


@dataclass(frozen=True, slots=True)
class Ready:
    """The model is warm."""


@dataclass(frozen=True, slots=True)
class Turned:
    """A turn was taken.

    Attributes:
        turn: what it did.
        began_at, ended_at: `time.monotonic()`.
        usage: after it.
    """

    turn: Turn
    began_at: float
    ended_at: float
    usage: Usage


@dataclass(frozen=True, slots=True)
class Refused:
    """What a `Submit` asked for cannot be done."""

    sequence_id: int
    error: ServiceError


@dataclass(frozen=True, slots=True)
class Rested:
    """There is no work; messages were taken."""

    usage: Usage


@dataclass(frozen=True, slots=True)
class Ended:
    """Nothing more will be told.

    Attributes:
        failure: None after `Stop`; the name of what went wrong otherwise, and its words.
    """

    failure: str | None = None


Event: TypeAlias = Ready | Turned | Refused | Rested | Ended
"""To the event loop."""
