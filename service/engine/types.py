"""The plain values that the engine's parts hand to one another and to the event loop.

Knows nothing about torch, threads or HTTP.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from collections.abc import Sequence as Many
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from service.decoding.params import SequenceParams
from service.errors import ServiceError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class WindowInput:
    """The audio of one window.

    Attributes:
        samples: f32[content_frames * 160 + 400], 16 kHz, with 200 samples of context on each side
            (the neighbouring audio, mirrored at the start of the file, zeros after its end).
        content_frames: mel frames of 10 ms that hold audio; the rest of the window is padding.
        log_maximum: log10 of the largest mel power in the whole file; None means that this window
            is the whole file.
    """

    samples: NDArray[np.float32]
    content_frames: int
    log_maximum: float | None = None


class Finish(enum.StrEnum):
    """Why a sequence ended."""

    EOT = "eot"
    LENGTH = "length"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class TokenStep:
    """One token of one sequence.

    A sequence of one hypothesis has a step as soon as its token is sampled. One of several (beam
    search, `best_of`) has its steps all at once, those of the best hypothesis, when that is known.
    The reference's average log-probability is the sum over all steps, divided by the number of
    tokens without end-of-text plus one.

    Attributes:
        token_id: the token; for `Finish.EOT` the end-of-text token itself.
        logprob: its log-probability after the rules, at temperature 1.
        no_speech_prob: probability of <|nospeech|> at <|startoftranscript|>; first step only.
        finish: set on the last step.
        error: set with `Finish.ERROR`; `token_id` is then meaningless.
    """

    token_id: int
    logprob: float
    no_speech_prob: float | None = None
    finish: Finish | None = None
    error: ServiceError | None = None


LanguageProbabilities = Mapping[int, float]
"""Token id of each language -> its probability; they sum to 1."""


@dataclass(frozen=True, slots=True)
class Start:
    """One sequence about to take its first step on `row`, whose window is in the slot `row`."""

    row: int
    params: SequenceParams


@dataclass(frozen=True, slots=True)
class Sampled:
    """What the runner drew for one row.

    Attributes:
        token_id: the token.
        logprob: its log-probability after the rules, at temperature 1.
        failed: whether the row's logits were NaN or the rules left no token; the rest is then
            meaningless.
        no_speech_prob: probability of <|nospeech|> at <|startoftranscript|>; from `prefill` only.
    """

    token_id: int
    logprob: float
    failed: bool = False
    no_speech_prob: float | None = None


class MoveKind(enum.Enum):
    """What a `Move` does; the order of moves matters.

    ROW: copies a row's keys, values and sampling state, source over target.
    WINDOW: copies a cross slot, source over target.
    SWAP: exchanges two cross slots.
    """

    ROW = "row"
    WINDOW = "window"
    SWAP = "swap"


@dataclass(frozen=True, slots=True)
class Move:
    """One order of the scheduler that keeps the running rows at `[0, B)`."""

    kind: MoveKind
    source: int
    target: int


@dataclass(frozen=True, slots=True)
class Open:
    """To the engine thread: a window is there.

    Attributes:
        window_id, window_input: its name and its audio.
        rank: how many windows its request has had before it.
        queued_at: `time.monotonic()` since when the request waits; on its first window only.
    """

    window_id: int
    window_input: WindowInput
    rank: int
    queued_at: float | None


@dataclass(frozen=True, slots=True)
class Submit:
    """To the engine thread: decode a window."""

    sequence_id: int
    window_id: int
    params: SequenceParams


@dataclass(frozen=True, slots=True)
class Close:
    """To the engine thread: a window's owner is done with it."""

    window_id: int


@dataclass(frozen=True, slots=True)
class Stop:
    """To the engine thread: end."""


class RunnerDead(Exception):
    """The device is lost (a CUDA error is sticky): nothing will work again in this process."""


class SessionClosed(ServiceError):
    """A window was used after its session, or the window itself, was closed."""

    code = "session_closed"


class Runner(Protocol):
    """What the engine core needs of whoever holds the model. Called from the engine thread only.

    Every call may be repeated after it has raised: it then has the effect of one call.
    """

    @property
    def encode_batch(self) -> int:
        """Windows that pay to be encoded together."""
        ...

    def on_thread(self) -> AbstractContextManager[object]:
        """Return the context that the engine thread works in."""
        ...

    def warm_up(self) -> None:
        """Run real inference once; afterwards `encode_batch` is settled."""
        ...

    def move(self, moves: Many[Move]) -> None:
        """Apply the scheduler's moves, in order."""
        ...

    def encode(self, windows: Many[tuple[int, WindowInput]]) -> None:
        """Encode windows into their cross slots."""
        ...

    def prefill(self, starts: Many[Start]) -> list[Sampled]:
        """Decode each prompt on its row and draw the first token. The rows are consecutive."""
        ...

    def decode(self, first: int, n_rows: int) -> list[Sampled]:
        """Take one step on rows `[first, first + n_rows)`."""
        ...
