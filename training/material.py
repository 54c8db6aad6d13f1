"""Sorts prepared clips by what they can be used for. Knows nothing about batches.

Speech comes in three kinds: words and strings (digits, to be joined), and sentences.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from numpy.random import Generator

from training.corpora import DIGITS, Clip
from training.store import Entry, Store

T = TypeVar("T")
STORES = ("corpora", "tts", "pieces", "cuts")


@dataclass(frozen=True, slots=True)
class Item:
    """One clip and the store that holds it."""

    store: Store
    entry: Entry

    @property
    def words(self) -> tuple[str, ...]:
        """The words that are said."""
        return tuple(self.entry.text.split())


@dataclass(slots=True)
class Material:
    """Clips of one part (train or dev) by use; `words` and `strings` by source, then speaker."""

    words: dict[str, dict[str, list[Item]]] = field(default_factory=dict)
    strings: dict[str, dict[str, list[Item]]] = field(default_factory=dict)
    sentences: dict[str, list[Item]] = field(default_factory=dict)
    noises: list[Item] = field(default_factory=list)

    def add(self, item: Item) -> None:
        """File one clip where it belongs."""
        entry = item.entry
        words = item.words
        if entry.source == "noise_esc10":
            self.noises.append(item)
        elif words and all(word in DIGITS for word in words):
            kind = self.words if len(words) == 1 else self.strings
            by_speaker = kind.setdefault(entry.source, defaultdict(list))
            by_speaker[entry.speaker].append(item)
        elif words:
            self.sentences.setdefault(entry.source, []).append(item)


def pick(rng: Generator, items: Sequence[T]) -> T:
    """Return one of the items."""
    return items[int(rng.integers(len(items)))]


def is_negative(item: Item) -> bool:
    """Whether a sentence holds nothing that sounds like a digit."""
    entry = item.entry
    return Clip(entry.source, "", entry.speaker, entry.text, "en").is_clearly_not_digits


def load_material(cache: Path, part: str) -> Material:
    """Read the stores in `cache`; `cuts` (training.align) may still be missing."""
    material = Material()
    for name in STORES:
        if not (cache / f"{name}.jsonl").exists():
            continue
        store = Store(cache / name)
        for entry in store.entries:
            if entry.part == part:
                material.add(Item(store, entry))
    for items in material.sentences.values():
        items.sort(key=lambda item: item.entry.length)
    return material
