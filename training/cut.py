"""Cuts strings of digits into words at the quietest places, before there is any model.

python -m training.cut --cache CACHE      writes CACHE/pieces.{i16,jsonl}
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from training.material import Item, load_material
from training.store import SAMPLE_RATE, Entry, write_store
from training.synthesis import speech_level, trim

FRAME = 160
SMOOTHING_FRAMES = 7
SHORTEST_FRAMES, LONGEST_FRAMES = 14, 110
LENGTHS = {"zero": 1.15, "three": 0.95, "six": 1.1, "seven": 1.2, "eight": 0.8, "two": 0.85}
"""Usual lengths of words relative to their mean."""
LENGTH_WEIGHT = 3.0


def loudness(samples: NDArray[np.int16], floor: float) -> NDArray[np.float64]:
    """Return the smoothed natural logarithm of the power over `floor`, int16[n] -> f64[n/160]."""
    frames = samples[: len(samples) // FRAME * FRAME].astype(np.float64).reshape(-1, FRAME)
    smoother = np.ones(SMOOTHING_FRAMES) / SMOOTHING_FRAMES
    power = np.convolve((frames**2).mean(axis=1), smoother, "same")
    return np.asarray(np.log(power + floor))


def boundaries(level: NDArray[np.float64], words: list[str]) -> list[int]:
    """Return the frames between words: few dB there, and words about as long as they should be.

    Raises: ValueError if the words do not fit.
    """
    total = len(level)
    usual = np.array([LENGTHS.get(word, 1.0) for word in words])
    usual *= total / usual.sum()
    cost = (level - level.mean()) / max(level.std(), 1e-3)
    best = np.full((len(words) + 1, total + 1), np.inf)
    came_from = np.zeros(best.shape, dtype=np.int64)
    best[0, 0] = 0.0
    for index, expected in enumerate(usual):
        for end in range(SHORTEST_FRAMES, total + 1):
            starts = np.arange(max(0, end - LONGEST_FRAMES), end - SHORTEST_FRAMES + 1)
            stretch = np.log((end - starts) / expected) ** 2
            totals = best[index, starts] + LENGTH_WEIGHT * stretch
            chosen = int(totals.argmin())
            here = float(cost[end]) if end < total else 0.0
            best[index + 1, end] = totals[chosen] + here
            came_from[index + 1, end] = starts[chosen]
    if not np.isfinite(best[-1, total]):
        raise ValueError(f"{len(words)} words do not fit {total} frames")
    ends = [total]
    for index in range(len(words), 0, -1):
        ends.append(int(came_from[index, ends[-1]]))
    return ends[::-1]


def pieces(items: list[Item]) -> Iterator[tuple[NDArray[np.int16], Entry]]:
    """Yield the words of each string."""
    for item in items:
        samples = (item.store.samples(item.entry) * 32767).astype(np.int16)
        level = speech_level(samples)
        samples = trim(samples, 0.0, level)
        words = list(item.words)
        try:
            places = boundaries(loudness(samples, level), words)
        except ValueError:
            continue
        for word, (start, end) in zip(words, pairwise(places), strict=True):
            piece = trim(samples[start * FRAME : end * FRAME], 0.04, level)
            if 0.12 * SAMPLE_RATE < len(piece) < SAMPLE_RATE:
                yield piece, Entry(0, 0, word, item.entry.speaker, "cuts", "train")


def main(cache: Annotated[Path, typer.Option(help="Folder with prepared audio.")]) -> None:
    """Cut the training speakers' strings."""
    strings = load_material(cache, "train").strings["speechocean762"]
    items = [item for by_speaker in strings.values() for item in by_speaker]
    print(write_store(cache / "pieces", pieces(items)), "words")


if __name__ == "__main__":
    typer.run(main)
