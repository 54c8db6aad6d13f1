"""Makes people say digits that they never said, from the sounds of their sentences.

A digit is put together from the fewest stretches of one speaker's sentences that are aligned with
its phones: "seven" from the "sev" of "several" and the "en" of "given". The joints are audible,
the voices are those of two hundred people, most of whom read no digits. Knows nothing of batches.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator

from training.augment import SAMPLE_RATE, Wave
from training.labels import FRAME_SAMPLES, PHONE_IDS, Labels, Labels8, tag_of
from training.material import Item, pick

PRONUNCIATIONS = {
    "zero": ("Z IH R OW", "Z IY R OW"),
    "one": ("W AH N",),
    "two": ("T UW",),
    "three": ("TH R IY",),
    "four": ("F AO R",),
    "five": ("F AY V",),
    "six": ("S IH K S",),
    "seven": ("S EH V AH N",),
    "eight": ("EY T",),
    "nine": ("N AY N",),
}
"""As in the CMU Pronouncing Dictionary."""
FADE = SAMPLE_RATE // 100
LONGEST_PHONE = 30
"""Frames; a longer one is misaligned."""
FEWEST_DIGITS = 6
"""A speaker of whom fewer digits can be made is left out."""

Stretch = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """Where a stretch of phones is said."""

    item: Item
    first: int
    last: int


class Mosaics:
    """Indexes sentences by speaker and by stretches of phones."""

    def __init__(self, sentences: list[Item]) -> None:
        wanted = {
            tuple(phones[i:j])
            for spoken in PRONUNCIATIONS.values()
            for phones in (text.split() for text in spoken)
            for i in range(len(phones))
            for j in range(i + 1, len(phones) + 1)
        }
        index: dict[str, dict[Stretch, list[Found]]] = defaultdict(lambda: defaultdict(list))
        for item in sentences:
            for stretch, found in _stretches(item, wanted):
                index[item.entry.speaker][stretch].append(found)
        self._index = {
            speaker: stretches
            for speaker, stretches in index.items()
            if len(self._sayable(stretches)) >= FEWEST_DIGITS
        }
        self._digits = {s: self._sayable(stretches) for s, stretches in self._index.items()}
        self.speakers = sorted(self._index)
        self._gains: dict[int, np.float32] = {}

    @staticmethod
    def _sayable(stretches: dict[Stretch, list[Found]]) -> list[str]:
        return [
            word
            for word, spoken in PRONUNCIATIONS.items()
            if any(_fewest(tuple(text.split()), stretches) for text in spoken)
        ]

    def word(
        self, rng: Generator, speaker: str, wanted: str | None = None
    ) -> tuple[Wave, Labels, str]:
        """Return a digit in the voice of a speaker: samples f32[n], labels, the word.

        It is the wanted one if the speaker's sounds suffice for it.
        """
        word = wanted if wanted in self._digits[speaker] else pick(rng, self._digits[speaker])
        stretches = self._index[speaker]
        plans = [_fewest(tuple(text.split()), stretches) for text in PRONUNCIATIONS[word]]
        plan = pick(rng, [plan for plan in plans if plan])
        sound = np.zeros(0, np.float32)
        phones: list[Labels8] = []
        for stretch in plan:
            found = pick(rng, stretches[stretch])
            sound = _join(sound, self._sound(found))
            phones.append(found.item.labels.phones[found.first : found.last])
        joined = np.concatenate(phones)
        return sound, Labels(joined, np.full(len(joined), tag_of(word), np.uint8)), word

    def _sound(self, found: Found) -> Wave:
        """Return a stretch's samples, with the whole sentence brought to one level."""
        item = found.item
        if id(item) not in self._gains:
            level = float(np.sqrt(np.mean(np.square(item.samples))))
            self._gains[id(item)] = np.float32(0.08 / max(level, 1e-5))
        start = max(found.first * FRAME_SAMPLES - FADE // 2, 0)
        end = min(found.last * FRAME_SAMPLES + FADE // 2, item.entry.length)
        entry = replace(item.entry, start=item.entry.start + start, length=end - start)
        return item.store.samples(entry) * self._gains[id(item)]


def _stretches(item: Item, wanted: set[Stretch]) -> list[tuple[Stretch, Found]]:
    """Return the wanted stretches in a sentence."""
    if item.alignment is None:
        return []
    phones = item.alignment.phones
    found = []
    for i in range(len(phones)):
        for j in range(i + 1, min(i + 5, len(phones)) + 1):
            if phones[j - 1][0] not in PHONE_IDS or phones[j - 1][2] > LONGEST_PHONE:
                break
            stretch = tuple(name for name, _, _ in phones[i:j])
            if stretch in wanted:
                last = phones[j - 1][1] + phones[j - 1][2]
                found.append((stretch, Found(item, phones[i][1], last)))
    return found


def _fewest(phones: Stretch, stretches: dict[Stretch, list[Found]]) -> list[Stretch]:
    """Return the fewest stretches that make up `phones`; none if that cannot be."""
    best: list[list[Stretch] | None] = [[]] + [None] * len(phones)
    for end in range(1, len(phones) + 1):
        for start in range(end):
            before, piece = best[start], phones[start:end]
            if before is None or piece not in stretches:
                continue
            here = best[end]
            if here is None or len(before) + 1 < len(here):
                best[end] = [*before, piece]
    return best[-1] or []


def _join(left: Wave, right: Wave) -> Wave:
    """Cross-fade the end of one sound with the beginning of another."""
    size = min(FADE, len(left), len(right))
    if not size:
        return np.concatenate([left, right])
    ramp = np.linspace(0, 1, size, dtype=np.float32)
    middle = left[-size:] * (1 - ramp) + right[:size] * ramp
    return np.concatenate([left[:-size], middle, right[size:]])
