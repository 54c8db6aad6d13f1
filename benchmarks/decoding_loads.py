"""What the decoders of `benchmarks.decoding` are asked for, and what they answer.

Imports nothing that the peers' environment lacks. Knows nothing about models.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

BEAMS = 5
RETRY = 0.4
"""The temperature at which a window is decoded again."""


class Load(enum.StrEnum):
    """What is asked for, of the same windows."""

    GREEDY = "greedy"
    BEAMS = "a quarter with 5 beams"
    FALLBACK = "a third decoded again"

    def uses_beams(self, window: int) -> bool:
        """Whether this window is searched with beams."""
        return self is Load.BEAMS and window % 4 == 0

    def fails(self, window: int) -> bool:
        """Whether this window is decoded once more, at a temperature."""
        return self is Load.FALLBACK and window % 3 == 0


@dataclass(frozen=True, slots=True)
class Decoded:
    """One load, decoded.

    Attributes:
        seconds: it took.
        texts: tokens without prompt and end-of-text: of each window, then of each that was decoded
            once more, by rising window.
    """

    seconds: float
    texts: list[list[int]]


def batches(load: Load, n_windows: int) -> list[tuple[str, list[int]]]:
    """Return the batches of a decoder that decodes one kind at a time: its kind, its windows.

    Kinds are "greedy", "beams" and "sampled"; empty batches are left out.
    """
    beams = [n for n in range(n_windows) if load.uses_beams(n)]
    found = [
        ("greedy", [n for n in range(n_windows) if n not in beams]),
        ("beams", beams),
        ("sampled", [n for n in range(n_windows) if load.fails(n)]),
    ]
    return [(kind, windows) for kind, windows in found if windows]


def in_order(texts: dict[tuple[str, int], list[int]]) -> list[list[int]]:
    """Return texts by (kind of batch, window) as `Decoded` has them."""
    return [text for _, text in sorted(texts.items(), key=lambda item: _place(*item[0]))]


def check(decoded: Decoded, load: Load, n_windows: int, words: list[int], eot: int) -> int:
    """Return how many text tokens were decoded; timestamps are not counted.

    Raises:
        AssertionError: if a text is missing, or another one than the model says.
    """
    expected = n_windows + sum(load.fails(n) for n in range(n_windows))
    assert len(decoded.texts) == expected, f"{len(decoded.texts)} texts instead of {expected}"
    for text in decoded.texts:
        said = [token for token in text if token < eot]
        assert said == words, f"{len(said)} tokens {said} instead of {len(words)}"
    return expected * len(words)


def _place(kind: str, window: int) -> tuple[bool, int]:
    return kind == "sampled", window
