"""Writes the manifests of corpora as their publishers distribute them.

The folders under ROOT are named in training/README.md. Audio is read where it lies.

python -m training.manifests --root DATA
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from training.corpora import DIGITS

Row = dict[str, str | None]


def fsdd(root: Path) -> Iterator[Row]:
    """free-spoken-digit-dataset/recordings/{digit}_{speaker}_{index}.wav."""
    for path in sorted((root / "free-spoken-digit-dataset" / "recordings").glob("*.wav")):
        digit, speaker, _ = path.stem.split("_")
        yield _row(root, path, DIGITS[int(digit)], f"fsdd_{speaker}")


def speechocean762(root: Path) -> Iterator[Row]:
    """speechocean762/{train,test}/{text,utt2spk,wav.scp}, as for Kaldi."""
    corpus = root / "speechocean762"
    for part in ("train", "test"):
        texts = _table(corpus / part / "text")
        speakers = _table(corpus / part / "utt2spk")
        for name, audio in _table(corpus / part / "wav.scp").items():
            speaker = f"so762_{speakers[name]}"
            yield _row(root, corpus / audio, texts[name].lower(), speaker)


def ljspeech(root: Path) -> Iterator[Row]:
    """LJSpeech-1.1/metadata.csv and wavs/."""
    corpus = root / "LJSpeech-1.1"
    for line in (corpus / "metadata.csv").read_text(encoding="utf-8").splitlines():
        name, _, text = line.split("|")
        yield _row(root, corpus / "wavs" / f"{name}.wav", text, "LJ")


def noise_esc10(root: Path) -> Iterator[Row]:
    """ESC-50-master/meta/esc50.csv and audio/: those that belong to ESC-10."""
    corpus = root / "ESC-50-master"
    with (corpus / "meta" / "esc50.csv").open(encoding="utf-8") as file:
        for line in csv.DictReader(file):
            if line["esc10"] == "True":
                yield _row(root, corpus / "audio" / line["filename"], None, None)


def _table(path: Path) -> dict[str, str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return {name: rest.strip() for name, rest in (line.split(maxsplit=1) for line in lines)}


def _row(root: Path, audio: Path, text: str | None, speaker: str | None) -> Row:
    return {"audio": str(audio.relative_to(root)), "text": text, "speaker": speaker, "lang": "en"}


def main(root: Annotated[Path, typer.Option(help="Folder with the corpora.")]) -> None:
    """Write ROOT/{corpus}.jsonl for each corpus that is trained on."""
    for corpus in (fsdd, speechocean762, ljspeech, noise_esc10):
        lines = [json.dumps(row) for row in corpus(root)]
        (root / f"{corpus.__name__}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(corpus.__name__, len(lines), "clips")


if __name__ == "__main__":
    typer.run(main)
