"""The plain values that cross the boundary between the event loop and the engine thread.

Knows nothing about torch, threads or HTTP.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from service.errors import ServiceError


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
    """One sampled token of one sequence.

    Attributes:
        token_id: the token; for `Finish.EOT` the end-of-text token itself.
        logprob: its log-probability after the rules, at temperature 1.
        no_speech_prob: probability of <|nospeech|> at <|startoftranscript|>, on the first step only.
        finish: set on the last step.
        error: set with `Finish.ERROR`; `token_id` is then meaningless.
    """

    token_id: int
    logprob: float
    no_speech_prob: float | None = None
    finish: Finish | None = None
    error: ServiceError | None = None
