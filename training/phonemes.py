"""Texts as the sounds of which they are made, for the auxiliary CTC.

English spelling tells a model little about what it hears; phonemes are learnt several times faster.
espeak-ng's US English pronounces each word by itself, without stress.

python -m training.phonemes --cache CACHE      writes CACHE/lexicon.json
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Annotated

import typer

from training.store import Store

N_SOUNDS = 96
"""Outputs of the CTC head: the blank, which is 0, and room for every symbol."""
_CHUNK = 500


class Lexicon:
    """Pronunciations of all words of the material."""

    def __init__(self, path: Path) -> None:
        content = json.loads(path.read_text(encoding="utf-8"))
        self.symbols: list[str] = content["symbols"]
        ids = {symbol: index + 1 for index, symbol in enumerate(self.symbols)}
        self._words = {w: [ids[s] for s in sounds] for w, sounds in content["words"].items()}

    def word(self, word: str) -> list[int]:
        """Return the ids of a word's sounds."""
        return self._words[word]

    def text(self, text: str) -> list[int]:
        """Return the ids of a text's sounds, words run together."""
        return [sound for word in text.split() for sound in self._words[word]]


def pronounce(words: list[str]) -> list[list[str]]:
    """Return each word's sounds.

    Raises: ValueError if espeak-ng did not answer word by word.
    """
    result = subprocess.run(
        ["espeak-ng", "-q", "-x", "--sep=_", "-v", "en-us", "--stdin"],
        input="".join(f"{word}.\n" for word in words),
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.strip() for line in result.stdout.splitlines() if line.strip()]
    if len(lines) != len(words):
        raise ValueError(f"{len(lines)} pronunciations of {len(words)} words")
    return [[_plain(sound) for sound in re.split("[_ ]+", line) if _plain(sound)] for line in lines]


def _plain(sound: str) -> str:
    return re.sub(r"[^A-Za-z@:]|(?<=.)2|\d", "", sound)


def main(cache: Annotated[Path, typer.Option(help="Folder with prepared audio.")]) -> None:
    """Pronounce every word of the corpora and of the synthetic speech."""
    texts = {e.text for name in ("corpora", "tts") for e in Store(cache / name).entries}
    words = sorted({word for text in texts for word in text.split()})
    lexicon: dict[str, list[str]] = {}
    for start in range(0, len(words), _CHUNK):
        chunk = words[start : start + _CHUNK]
        try:
            lexicon |= dict(zip(chunk, pronounce(chunk), strict=True))
        except ValueError:
            lexicon |= {word: pronounce([word])[0] if word.strip("'") else [] for word in chunk}
    symbols = sorted({symbol for sounds in lexicon.values() for symbol in sounds})
    if len(symbols) >= N_SOUNDS:
        raise SystemExit(f"{len(symbols)} symbols are more than the head has room for")
    content = {"symbols": symbols, "words": lexicon}
    (cache / "lexicon.json").write_text(json.dumps(content), encoding="utf-8")
    print(len(words), "words,", len(symbols), "symbols")


if __name__ == "__main__":
    typer.run(main)
