"""What is heard in each 10 ms of a clip: a phone, and a digit or other speech. uint8[n/160] each.

Clips are cut, played faster and joined; their labels go through the same steps.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.corpora import DIGITS, HOMOPHONES

PHONES = (
    *("SIL", "AA", "AE", "AH", "AO", "AW", "AY", "B", "CH", "D", "DH", "EH", "ER", "EY"),
    *("F", "G", "HH", "IH", "IY", "JH", "K", "L", "M", "N", "NG", "OW", "OY", "P", "R"),
    *("S", "SH", "T", "TH", "UH", "UW", "V", "W", "Y", "Z", "ZH"),
)
"""The phones of the CMU Pronouncing Dictionary, after silence."""
FRAME_SAMPLES = 160
"""Samples of a frame of the alignment."""
UNKNOWN = 255
"""A label that nobody learns from."""
SILENT, OTHER, FIRST_DIGIT = 0, 1, 2
N_TAGS = FIRST_DIGIT + len(DIGITS)
PHONE_IDS = {name: index for index, name in enumerate(PHONES)}
Labels8 = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels of one clip.

    Attributes:
        phones: indices of PHONES, u8[frames].
        tags: SILENT, OTHER, or FIRST_DIGIT plus the digit, u8[frames].
    """

    phones: Labels8
    tags: Labels8

    @classmethod
    def filled(cls, samples: int, phone: int, tag: int) -> Labels:
        """Return the same labels for a whole clip."""
        size = frames_of(samples)
        return cls(np.full(size, phone, np.uint8), np.full(size, tag, np.uint8))

    def part(self, first: int, last: int) -> Labels:
        """Return the labels of frames `first` to `last`, the latter not included."""
        return Labels(self.phones[first:last], self.tags[first:last])

    def at_speed(self, factor: float, samples: int) -> Labels:
        """Return the labels of the clip played `factor` times as fast, now `samples` long."""
        at = (np.arange(frames_of(samples)) * factor).astype(np.int64)
        at = at.clip(max=len(self.phones) - 1)
        return Labels(self.phones[at], self.tags[at])

    def place(self, other: Labels, sample: int) -> None:
        """Write another clip's labels from `sample` on."""
        first = round(sample / FRAME_SAMPLES)
        size = max(min(len(other.phones), len(self.phones) - first), 0)
        self.phones[first : first + size] = other.phones[:size]
        self.tags[first : first + size] = other.tags[:size]


def frames_of(samples: int) -> int:
    """Return the number of labels of a clip."""
    return samples // FRAME_SAMPLES + 1


def tag_of(word: str) -> int:
    """Return the tag of a word; what sounds like a digit is UNKNOWN."""
    if word in DIGITS:
        return FIRST_DIGIT + DIGITS.index(word)
    return UNKNOWN if word in HOMOPHONES else OTHER


@dataclass(frozen=True, slots=True)
class Aligned:
    """Where words and phones are in one clip, and the labels that follow from it.

    Attributes:
        words: each with its first frame and its number of frames.
        phones: likewise.
    """

    words: list[tuple[str, int, int]]
    phones: list[tuple[str, int, int]]

    def labels(self, samples: int) -> Labels:
        """Return labels for a clip of so many samples."""
        made = Labels.filled(samples, 0, SILENT)
        for name, start, count in self.phones:
            made.phones[start : start + count] = PHONE_IDS.get(name, UNKNOWN)
        for word, start, count in self.words:
            made.tags[start : start + count] = tag_of(word)
        return made


def read_alignments(path: Path, texts: list[str]) -> list[Aligned | None]:
    """Return the alignments in a file of training.alignment; None where the words do not agree."""
    rows: list[dict[str, Any] | None]
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    found: list[Aligned | None] = []
    for row, text in zip(rows, texts, strict=True):
        agrees = row is not None and [word[0] for word in row["words"]] == text.split()
        found.append(Aligned(row["words"], row["phones"]) if row and agrees else None)
    return found
