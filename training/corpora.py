"""Reads the manifests of the corpora under `--root`. Knows nothing about who trains on what.

A manifest is JSON lines, one clip each: `audio` (path relative to the root), `text`, `speaker`,
`split`. training/README.md names the corpora and how to lay them out.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
HOMOPHONES = frozenset(
    ("won", "to", "too", "for", "fore", "ate", "oh", "o", "tree", "free", "sicks", "nein")
)
"""Words so close to a digit that a sentence with one of them is no test of "not a digit"."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One recording of a manifest."""

    corpus: str
    audio: str
    speaker: str
    text: str
    lang: str

    @property
    def words(self) -> list[str]:
        """The text as lower-case words of letters only."""
        return normalise(self.text).split()

    @property
    def is_digits(self) -> bool:
        """Whether the text is nothing but digits."""
        return bool(self.words) and all(word in DIGITS for word in self.words)

    @property
    def is_clearly_not_digits(self) -> bool:
        """Whether no word (or numeral) sounds like a digit."""
        return not any(
            word in HOMOPHONES or any(digit in word for digit in DIGITS) for word in self.words
        ) and not re.search(r"\d", self.text)


def normalise(text: str) -> str:
    """Return lower-case letters, apostrophes and single spaces."""
    return " ".join(re.sub(r"[^a-z' ]+", " ", text.lower()).split())


def read_manifest(root: Path, corpus: str) -> list[Clip]:
    """Return the clips of `root/{corpus}.jsonl`, in the file's order."""
    lines = (root / f"{corpus}.jsonl").read_text(encoding="utf-8").splitlines()
    return [_clip(corpus, json.loads(line)) for line in lines]


def _clip(corpus: str, row: dict[str, str]) -> Clip:
    return Clip(
        corpus, row["audio"], row["speaker"] or "", row["text"] or "", row.get("lang") or "en"
    )
