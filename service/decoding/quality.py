"""Figures that tell good transcripts from bad ones. Pure: knows nothing about models or torch."""

from __future__ import annotations

import zlib


def compression_ratio(text: str) -> float:
    """Return how much shorter zlib makes a text: 2.4 and more is one that repeats itself.

    0 for no text. Formula: openai/whisper utils.py `compression_ratio`.
    """
    data = text.encode("utf-8")
    return len(data) / len(zlib.compress(data))
