"""Which of several media types a client would rather have. Knows nothing about what they hold."""

from __future__ import annotations

from collections.abc import Sequence


def preferred(accept: str, offered: Sequence[str]) -> str:
    """Return the offered type that an `Accept` header weighs most.

    The first one offered is for clients that do not care, or want none of them: an answer of
    another type is of more use than none (RFC 9110, section 12.5.1).

    Args:
        accept: the header's value, perhaps empty.
        offered: media types, the default first.
    """
    weights = [_weight(accept, media_type) for media_type in offered]
    return offered[weights.index(max(weights))]


def _weight(accept: str, media_type: str) -> float:
    """Return the weight of the most specific range that a type lies in, 0 if there is none."""
    ranges = (media_type, media_type.partition("/")[0] + "/*", "*/*")
    found: dict[str, float] = {}
    for part in accept.lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        found[name] = next((_quality(p) for p in parameters if p.startswith("q=")), 1.0)
    return next((found[name] for name in ranges if name in found), 0.0)


def _quality(parameter: str) -> float:
    try:
        quality = float(parameter.removeprefix("q="))
    except ValueError:
        return 0.0
    return quality if 0.0 <= quality <= 1.0 else 0.0
