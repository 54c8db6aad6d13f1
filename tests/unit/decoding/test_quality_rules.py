from __future__ import annotations

import itertools

import pytest

from service.decoding.quality import Failure, Quality, Thresholds, failure_of, is_silent

FIGURES = [
    Quality(avg_logprob, ratio, no_speech_prob)
    for avg_logprob, ratio, no_speech_prob in itertools.product(
        (-2.0, -1.0, -0.5), (0.5, 2.4, 3.0), (None, 0.1, 0.6, 0.9)
    )
]
LIMITS = [
    Thresholds(ratio, logprob, no_speech)
    for ratio, logprob, no_speech in itertools.product((None, 2.4), (None, -1.0), (None, 0.6))
]


def reference_needs_fallback(quality: Quality, limits: Thresholds) -> bool:
    """openai/whisper's rule, line by line; it has NaN where there is no probability."""
    no_speech = float("nan") if quality.no_speech_prob is None else quality.no_speech_prob
    needs = False
    if limits.compression_ratio is not None:
        needs |= quality.compression_ratio > limits.compression_ratio
    if limits.logprob is not None:
        needs |= quality.avg_logprob < limits.logprob
    if limits.no_speech is not None and limits.logprob is not None:
        silent = no_speech > limits.no_speech
        needs &= not (silent and quality.avg_logprob < limits.logprob)
    return needs


def reference_skips(quality: Quality, limits: Thresholds) -> bool:
    no_speech = float("nan") if quality.no_speech_prob is None else quality.no_speech_prob
    if limits.no_speech is None:
        return False
    skips = no_speech > limits.no_speech
    if limits.logprob is not None and quality.avg_logprob > limits.logprob:
        skips = False
    return skips


@pytest.mark.parametrize("limits", LIMITS, ids=str)
def test_failures_and_silence_are_the_references(limits: Thresholds) -> None:
    for quality in FIGURES:
        failed = failure_of(quality, limits) is not None
        assert failed == reference_needs_fallback(quality, limits), quality
        assert is_silent(quality, limits) == reference_skips(quality, limits), quality


def test_the_cause_of_a_failure_is_named() -> None:
    assert failure_of(Quality(-0.1, 3.0, 0.0), Thresholds()) is Failure.REPETITION
    assert failure_of(Quality(-1.1, 1.0, 0.0), Thresholds()) is Failure.LOGPROB
