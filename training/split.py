"""Decides who is heard in training: people, not clips, are split. Knows nothing about audio.

The rule looks at names only. Speakers are ranked by the SHA-256 of their id; of the speakers of
FSDD the first is for testing; of the speakers of speechocean762 who read digits, the first 18 are
for testing and the next 8 for development. Nothing that a test or development speaker said, digits
or not, is trained on. ESC-10 comes in five folds that keep takes of one recording together: the
fifth is for testing, the fourth for development. `mixed_test` is for testing altogether.

python -m training.split --root DATA      writes training/split.json
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from training.corpora import Clip, read_manifest

SPLIT_FILE = Path(__file__).with_name("split.json")
TEST_FSDD, TEST_SPEECHOCEAN, DEV_SPEECHOCEAN = 1, 18, 8
DEV_FOLD, TEST_FOLD = "4", "5"


@dataclass(frozen=True, slots=True)
class Split:
    """Ids of speakers; everybody who is not named is for training."""

    train_digit_speakers: frozenset[str]
    dev_speakers: frozenset[str]
    test_speakers: frozenset[str]

    def part(self, clip: Clip) -> str:
        """Return "train", "dev" or "test" for one clip."""
        if clip.corpus == "mixed_test":
            return "test"
        if clip.corpus == "noise_esc10":
            fold = Path(clip.audio).name[0]
            return {DEV_FOLD: "dev", TEST_FOLD: "test"}.get(fold, "train")
        if clip.speaker in self.test_speakers:
            return "test"
        return "dev" if clip.speaker in self.dev_speakers else "train"


def ranked(speakers: Iterable[str]) -> list[str]:
    """Return unique ids in the order of their SHA-256."""
    return sorted(set(speakers), key=lambda name: hashlib.sha256(name.encode()).hexdigest())


def load_split() -> Split:
    """Return the committed split."""
    names = json.loads(SPLIT_FILE.read_text(encoding="utf-8"))
    return Split(**{part: frozenset(ids) for part, ids in names.items()})


def main(root: Annotated[Path, typer.Option(help="Folder with the corpora.")]) -> None:
    """Apply the rule to the manifests under ROOT and write split.json."""
    fsdd = ranked(clip.speaker for clip in read_manifest(root, "fsdd"))
    readers = ranked(
        clip.speaker for clip in read_manifest(root, "speechocean762") if clip.is_digits
    )
    dev_end = TEST_SPEECHOCEAN + DEV_SPEECHOCEAN
    parts = {
        "test_speakers": fsdd[:TEST_FSDD] + readers[:TEST_SPEECHOCEAN],
        "dev_speakers": readers[TEST_SPEECHOCEAN:dev_end],
        "train_digit_speakers": fsdd[TEST_FSDD:] + readers[dev_end:],
    }
    SPLIT_FILE.write_text(json.dumps(parts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
