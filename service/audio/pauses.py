"""Where to cut a recording that is to be decoded in parts. Pure arithmetic over seconds.

Knows nothing about how speech was detected, about models or tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from service.audio.vad import Span


def best_pause(speech: Sequence[Span], start_s: float, end_s: float) -> float | None:
    """Return the middle of the pause in which to cut, None if there is no pause.

    The longest one of the later half, where sentences are likelier to end than elsewhere; else the
    last one of the earlier half. Silence at the end is a pause too, silence at the start is not.

    Args:
        speech: from `start_s` to `end_s`, in order; at least one span.
        start_s: of what has to be cut.
        end_s: of it.
    """
    ends = [end for _, end in speech]
    starts = [start for start, _ in speech[1:]] + [end_s]
    pauses = [(a, b) for a, b in zip(ends, starts, strict=True) if a < b]
    late = [(b - a, b) for a, b in pauses if (a + b) / 2 >= (start_s + end_s) / 2]
    if late:
        length_s, end = max(late)
        return end - length_s / 2
    return sum(pauses[-1]) / 2 if pauses else None
