"""Decodes the corpora once into a store. Knows nothing about batches.

python -m training.prepare --root DATA --cache CACHE      writes CACHE/corpora.{i16,jsonl}
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.progress import track

from training.corpora import Clip, normalise, read_manifest
from training.split import Split, load_split
from training.store import Entry, write_store
from training.synthesis import read_audio

TRAINING_CORPORA = ("fsdd", "speechocean762", "ljspeech", "noise_esc10")


def decode(
    root: Path, clips: list[Clip], split: Split
) -> Iterator[tuple[NDArray[np.int16], Entry]]:
    """Yield the audio of every clip that is not for testing."""
    for clip in track(clips, "decoding"):
        part = split.part(clip)
        if part != "test":
            text = normalise(clip.text)
            yield read_audio(root / clip.audio), Entry(0, 0, text, clip.speaker, clip.corpus, part)


def main(
    root: Annotated[Path, typer.Option(help="Folder with the corpora.")],
    cache: Annotated[Path, typer.Option(help="Folder for prepared audio.")],
) -> None:
    """Decode the training and development parts; under a minute."""
    split = load_split()
    clips = [clip for corpus in TRAINING_CORPORA for clip in read_manifest(root, corpus)]
    print(write_store(cache / "corpora", decode(root, clips, split)), "clips")


if __name__ == "__main__":
    typer.run(main)
