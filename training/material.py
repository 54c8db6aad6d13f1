"""Sorts prepared clips by what they can be used for. Knows nothing about batches.

Speech comes in three kinds: words and strings (digits, to be joined), and sentences.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.random import Generator

from training.augment import Wave
from training.corpora import DIGITS, Clip
from training.labels import (
    FRAME_SAMPLES,
    OTHER,
    SILENT,
    UNKNOWN,
    Aligned,
    Labels,
    read_alignments,
    tag_of,
)
from training.store import Entry, Store

T = TypeVar("T")
ALIGNED = ("corpora", "tts", "voices")
"""The stores whose words and phones `alignment.py` finds."""
STORES = (*ALIGNED, "strangers")
"""The last two need not be there."""
MARGIN_FRAMES = 3
"""How much is kept before the first and after the last word of a string."""
SHORTEST_WORD, LONGEST_WORD = 12, 100
"""Frames of a word that is credible enough to be cut out."""


@dataclass(frozen=True, slots=True)
class Item:
    """One clip, or a part of one, in the store that holds it.

    Attributes:
        alignment: where its words and phones are; None if that is not known.
    """

    store: Store
    entry: Entry
    labels: Labels
    alignment: Aligned | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """The words that are said."""
        return tuple(self.entry.text.split())

    @property
    def samples(self) -> Wave:
        """The audio, f32[n]."""
        return self.store.samples(self.entry)

    def part(self, first: int, last: int, text: str, source: str) -> Item:
        """Return frames `first` to `last` as an item of its own."""
        first, last = max(first, 0), min(last, self.entry.length // FRAME_SAMPLES)
        alignment = self.alignment and Aligned(
            [(w, at - first, n) for w, at, n in self.alignment.words if first <= at < last],
            [(p, at - first, n) for p, at, n in self.alignment.phones if first <= at < last],
        )
        start = self.entry.start + first * FRAME_SAMPLES
        length = (last - first) * FRAME_SAMPLES
        entry = replace(self.entry, start=start, length=length, text=text, source=source)
        return Item(self.store, entry, self.labels.part(first, last), alignment)

    def word(self, word: str, start: int, count: int) -> Item:
        """Return one word with a frame before and after it."""
        cut = self.part(start - 1, start + count + 1, word, "cuts")
        tags = np.full_like(cut.labels.tags, tag_of(word))
        return replace(cut, labels=Labels(cut.labels.phones, tags))


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
        elif entry.source == "strangers":
            self.words.setdefault("others", defaultdict(list))[entry.speaker].append(item)
        elif words:
            self.sentences.setdefault(entry.source, []).append(item)
        for cut in words_in(item):
            if tag_of(cut.entry.text) == OTHER:
                self.words.setdefault("others", defaultdict(list))[entry.speaker].append(cut)
            elif entry.source != "tts" and cut.entry.text in DIGITS:
                use = "voices" if entry.source == "voices" else "cuts"
                self.words.setdefault(use, defaultdict(list))[entry.speaker].append(cut)


def words_in(item: Item) -> list[Item]:
    """Return the words that somebody said within a string or a sentence."""
    if item.alignment is None or len(item.words) < 2:
        return []
    return [
        item.word(word, start, count)
        for word, start, count in item.alignment.words
        if SHORTEST_WORD <= count <= LONGEST_WORD
    ]


def without_ends(item: Item) -> Item:
    """Return a string from shortly before its first word until shortly after its last."""
    if item.alignment is None:
        return item
    _, first, _ = item.alignment.words[0]
    _, last, count = item.alignment.words[-1]
    text, source = item.entry.text, item.entry.source
    return item.part(first - MARGIN_FRAMES, last + count + MARGIN_FRAMES, text, source)


def pick(rng: Generator, items: Sequence[T]) -> T:
    """Return one of the items."""
    return items[int(rng.integers(len(items)))]


def is_negative(item: Item) -> bool:
    """Whether a sentence holds nothing that sounds like a digit."""
    entry = item.entry
    return Clip(entry.source, "", entry.speaker, entry.text, "en").is_clearly_not_digits


def load_material(cache: Path, part: str) -> Material:
    """Read the stores in `cache` and the alignments beside them."""
    material = Material()
    for name in STORES:
        if not (cache / f"{name}.jsonl").exists():
            continue
        store = Store(cache / name)
        texts = [entry.text for entry in store.entries]
        alignments: list[Aligned | None] = [None] * len(texts)
        if name in ALIGNED:
            alignments = read_alignments(cache / f"{name}.phones.jsonl", texts)
        for entry, alignment in zip(store.entries, alignments, strict=True):
            if entry.part == part:
                item = Item(store, entry, _labels(entry, alignment), alignment)
                material.add(without_ends(item) if _is_string(item) else item)
    for items in material.sentences.values():
        items.sort(key=lambda item: item.entry.length)
    return material


def _is_string(item: Item) -> bool:
    return len(item.words) > 1 and all(word in DIGITS for word in item.words)


def _labels(entry: Entry, alignment: Aligned | None) -> Labels:
    if alignment is not None:
        return alignment.labels(entry.length)
    if not entry.text:
        return Labels.filled(entry.length, 0, SILENT)
    tags = {tag_of(word) for word in entry.text.split()}
    return Labels.filled(entry.length, UNKNOWN, tags.pop() if len(tags) == 1 else UNKNOWN)
