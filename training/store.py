"""Clips as one flat int16 array and an index, so that a batch costs no decoding.

Knows nothing about corpora or training.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a clip lies in the array, and what is said in it."""

    start: int
    length: int
    text: str
    speaker: str
    source: str
    part: str


class Store:
    """Reads `{path}.i16` and `{path}.jsonl`."""

    def __init__(self, path: Path) -> None:
        lines = path.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()
        self.entries = [Entry(**json.loads(line)) for line in lines]
        self._samples = np.memmap(path.with_suffix(".i16"), dtype=np.int16, mode="r")

    def samples(self, entry: Entry) -> NDArray[np.float32]:
        """Return one clip, f32[n] in [-1, 1]."""
        part = self._samples[entry.start : entry.start + entry.length]
        return part.astype(np.float32) / 32768.0


def write_store(path: Path, clips: Iterable[tuple[NDArray[np.int16], Entry]]) -> int:
    """Write clips (their entries' start and length are filled in here); return how many."""
    path.parent.mkdir(parents=True, exist_ok=True)
    position = count = 0
    with (
        path.with_suffix(".i16").open("wb") as audio,
        path.with_suffix(".jsonl").open("w") as index,
    ):
        for samples, entry in clips:
            audio.write(samples.tobytes())
            row = asdict(entry) | {"start": position, "length": len(samples)}
            index.write(json.dumps(row) + "\n")
            position += len(samples)
            count += 1
    return count
