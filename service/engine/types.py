"""The plain values that the engine's parts hand to one another and to the event loop.

Knows nothing about torch, threads or HTTP.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from collections.abc import Sequence as Many
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from service.decoding.hypotheses import Candidates
from service.decoding.params import AlignParams, DetectParams, SequenceParams
from service.decoding.words import Alignment
from service.errors import ServiceError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


ALIGN_BATCH = 4
"""Texts that are aligned in one pass, at most: about as long as a window takes to encode."""


@dataclass(frozen=True, slots=True)
class WindowInput:
    """The audio of one window.

    Attributes:
        samples: f32[content_frames * 160 + 400], 16 kHz, with 200 samples of context on each side
            (the neighbouring audio, mirrored at the start of the file, zeros after its end); none
            once it is encoded.
        content_frames: mel frames of 10 ms that hold audio; the rest of the window is padding.
        log_maximum: log10 of the largest mel power in the whole file; None means that this window
            is the whole file.
    """

    samples: NDArray[np.float32]
    content_frames: int
    log_maximum: float | None = None

    def without_samples(self) -> WindowInput:
        """Return the rest of it."""
        return dataclasses.replace(self, samples=self.samples[:0].copy())


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
class Answer:
    """What a detection or an alignment came to: its only step.

    Attributes:
        result: that.
    """

    result: LanguageProbabilities | Alignment

    @property
    def finish(self) -> Finish:
        """It always is the last step."""
        return Finish.EOT

    @property
    def error(self) -> None:
        """None: what failed ends with a `TokenStep`."""


Step = TokenStep | Answer
"""What the owner of a sequence sees of a turn."""

Task = SequenceParams | DetectParams | AlignParams
"""What can be done with a window."""


def n_rows_of(task: Task) -> int:
    """Return the decoder rows that a task takes."""
    return task.n_rows if isinstance(task, SequenceParams) else 1


@dataclass(frozen=True, slots=True)
class Start:
    """One sequence about to take its first step.

    Attributes:
        row: the first of its rows.
        slot: its window's.
        params: how to decode.
    """

    row: int
    slot: int
    params: SequenceParams


@dataclass(frozen=True, slots=True)
class AlignStart:
    """One text about to be aligned: on `row`, with the window in `slot`."""

    row: int
    slot: int
    params: AlignParams


@dataclass(frozen=True, slots=True)
class Group:
    """Sequences of one kind on neighbouring rows, their windows in neighbouring slots.

    Attributes:
        row, slot: the first ones.
        n_windows: sequences.
        width: rows of each.
        is_beam: whether those are the beams of a search.
    """

    row: int
    slot: int
    n_windows: int
    width: int = 1
    is_beam: bool = False

    @property
    def n_rows(self) -> int:
        """Rows of all of them."""
        return self.n_windows * self.width

    @property
    def rows(self) -> slice:
        """Where those are."""
        return slice(self.row, self.row + self.n_rows)


@dataclass(frozen=True, slots=True)
class Sampled:
    """What the runner drew for a sequence of one hypothesis.

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

    ROW: copies the keys, values and sampling state of `n_rows` rows, source over target. Source
        and target may overlap: the rows are read before they are written.
    WINDOW: copies a cross slot, source over target.
    SWAP: exchanges two cross slots.
    """

    ROW = "row"
    WINDOW = "window"
    SWAP = "swap"


@dataclass(frozen=True, slots=True)
class Move:
    """One order of the scheduler that keeps together what runs together."""

    kind: MoveKind
    source: int
    target: int
    n_rows: int = 1


@dataclass(slots=True)
class Forwards:
    """The model's forwards since they were counted last.

    Attributes:
        encoded: windows in each of the encoder.
        decoded: rows in each of the decoder.
    """

    encoded: list[int] = field(default_factory=list)
    decoded: list[int] = field(default_factory=list)


class RunnerDead(Exception):
    """The device is lost (a CUDA error is sticky): nothing will work again in this process."""


class SessionClosed(ServiceError):
    """A window was used after its session, or the window itself, was closed."""

    code = "session_closed"


class Runner(Protocol):
    """What the engine core needs of whoever holds the model. Called on the core's thread only.

    Every call may be repeated after it has raised: it then has the effect of one call.
    """

    @property
    def encode_batch(self) -> int:
        """Windows that pay to be encoded together."""
        ...

    def on_thread(self) -> AbstractContextManager[object]:
        """Return the context that the core's thread works in."""
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

    def prefill(self, starts: Many[Start]) -> list[Sampled | Candidates]:
        """Decode each prompt and draw the first token, or the first of every hypothesis."""
        ...

    def detect(self, places: Many[tuple[int, int]]) -> list[LanguageProbabilities | None]:
        """Return what language is spoken in windows, each (row, slot); None if it failed."""
        ...

    def align(self, starts: Many[AlignStart]) -> list[Alignment | None]:
        """Align texts with their windows; None where the model's output is not a number."""
        ...

    def decode(self, groups: Many[Group]) -> list[Sampled | Candidates]:
        """Take one step on the rows of groups -> what each sequence drew, in order."""
        ...

    def take_forwards(self) -> Forwards:
        """Return the forwards since this was asked last."""
        ...
