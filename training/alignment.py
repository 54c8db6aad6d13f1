"""Finds where each sound is said: a forced alignment of every clip that has a transcript.

CMU Sphinx's US English model (pocketsphinx, BSD) is told the words and answers with the times
of their phones. They become targets for the encoder at every position, and places to cut words at.

python -m training.alignment --cache CACHE      writes CACHE/{corpora,tts,voices}.phones.jsonl
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from multiprocessing import Pool
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from pocketsphinx import Decoder
from rich.progress import track

from training.labels import Aligned
from training.material import ALIGNED
from training.store import Entry, Store


def _decoder() -> Decoder:
    return Decoder(lm=None, loglevel="FATAL", cmn="batch", bestpath=False, fwdflat=False, topn=2)


class Aligner:
    """A decoder that is told what is said."""

    def __init__(self) -> None:
        self._decoder = _decoder()

    def __call__(self, samples: NDArray[np.int16], text: str) -> Aligned | None:
        """Return the alignment; None if a word has no pronunciation or the text does not fit."""
        decoder = self._decoder
        if any(decoder.lookup_word(word) is None for word in text.split()):
            return None
        decoder.set_align_text(text)
        try:
            self._process(samples)
            if decoder.hyp() is None:
                return None
            decoder.set_alignment()
            self._process(samples)
        except RuntimeError:
            self._decoder = _decoder()
            return None
        words: list[tuple[str, int, int]] = []
        phones: list[tuple[str, int, int]] = []
        for word in decoder.get_alignment():
            if not word.name.startswith("<"):
                words.append((re.sub(r"\(\d+\)$", "", word.name), word.start, word.duration))
            phones.extend((phone.name, phone.start, phone.duration) for phone in word)
        return Aligned(words, phones)

    def _process(self, samples: NDArray[np.int16]) -> None:
        self._decoder.start_utt()
        self._decoder.process_raw(samples.tobytes(), full_utt=True)
        self._decoder.end_utt()


def _align(task: tuple[Path, list[Entry]]) -> list[Aligned | None]:
    path, entries = task
    store, aligner = Store(path), Aligner()
    return [
        aligner((store.samples(entry) * 32768).astype(np.int16), entry.text) if entry.text else None
        for entry in entries
    ]


def _chunks(path: Path) -> Iterator[tuple[Path, list[Entry]]]:
    entries = Store(path).entries
    for start in range(0, len(entries), 200):
        yield path, entries[start : start + 200]


def main(cache: Annotated[Path, typer.Option(help="Folder with prepared audio.")]) -> None:
    """Align everything that has a text; about 10 minutes on two cores."""
    with Pool(2) as pool:
        for name in ALIGNED:
            if not (cache / f"{name}.jsonl").exists():
                continue
            chunks = list(_chunks(cache / name))
            found = total = 0
            with (cache / f"{name}.phones.jsonl").open("w") as file:
                for alignments in track(pool.imap(_align, chunks), name, total=len(chunks)):
                    for alignment in alignments:
                        file.write(json.dumps(alignment and asdict(alignment)) + "\n")
                        found += alignment is not None
                        total += 1
            print(name, found, "of", total, "clips aligned")


if __name__ == "__main__":
    typer.run(main)
