"""Figures that tell good transcripts from bad ones. Pure: knows nothing about models or torch.

Rules and their order: openai/whisper transcribe.py, `decode_with_fallback` and the no-speech skip
after it.
"""

from __future__ import annotations

import enum
import zlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Thresholds:
    """From where on a decoding counts as failed, or its window as silent; None for never.

    Attributes:
        compression_ratio: a text that zlib shortens by more repeats itself.
        logprob: a mean log-probability under this is a guess.
        no_speech: a probability of silence over this counts, where the text is a guess too.
    """

    compression_ratio: float | None = 2.4
    logprob: float | None = -1.0
    no_speech: float | None = 0.6


@dataclass(frozen=True, slots=True)
class Quality:
    """The figures of one decoding of one window.

    Attributes:
        avg_logprob: mean log-probability of its tokens, end-of-text included.
        compression_ratio: of its text.
        no_speech_prob: of its window; None if the model has no token for it.
    """

    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float | None


class Failure(enum.StrEnum):
    """Why a decoding is not good enough."""

    REPETITION = "repetition"
    LOGPROB = "logprob"


def compression_ratio(text: str) -> float:
    """Return how much shorter zlib makes a text: 2.4 and more is one that repeats itself.

    0 for no text. Formula: openai/whisper utils.py `compression_ratio`.
    """
    data = text.encode("utf-8")
    return len(data) / len(zlib.compress(data))


def failure_of(quality: Quality, thresholds: Thresholds) -> Failure | None:
    """Return why a window should be decoded again at a higher temperature, None if it need not.

    One that seems silent need not: no temperature makes speech of silence.
    """
    guessed = thresholds.logprob is not None and quality.avg_logprob < thresholds.logprob
    if guessed and _sounds_silent(quality, thresholds):
        return None
    limit = thresholds.compression_ratio
    if limit is not None and quality.compression_ratio > limit:
        return Failure.REPETITION
    return Failure.LOGPROB if guessed else None


def is_silent(quality: Quality, thresholds: Thresholds) -> bool:
    """Whether a window holds no speech: it sounds silent, and its text is not a sure one."""
    sure = thresholds.logprob is not None and quality.avg_logprob > thresholds.logprob
    return not sure and _sounds_silent(quality, thresholds)


def _sounds_silent(quality: Quality, thresholds: Thresholds) -> bool:
    probability = quality.no_speech_prob
    limit = thresholds.no_speech
    return probability is not None and limit is not None and probability > limit
