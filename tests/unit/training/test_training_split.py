"""Nobody is heard both in training and in testing."""

import json

from training.corpora import Clip
from training.split import SPLIT_FILE, load_split, ranked


def clip(corpus: str, speaker: str, audio: str = "a/1-1-A.opus") -> Clip:
    return Clip(corpus, audio, speaker, "one", "en")


def test_the_parts_do_not_share_a_speaker() -> None:
    names = json.loads(SPLIT_FILE.read_text(encoding="utf-8"))
    everybody = [name for part in names.values() for name in part]
    assert len(everybody) == len(set(everybody)) == 54


def test_speakers_are_ranked_by_a_hash_of_their_names_alone() -> None:
    split = load_split()
    readers = split.train_digit_speakers | split.dev_speakers | split.test_speakers
    order = [name for name in ranked(readers) if name.startswith("so762")]
    assert set(order[:18]) == {n for n in split.test_speakers if n.startswith("so762")}
    assert set(order[18:26]) == split.dev_speakers


def test_all_that_a_test_speaker_said_is_for_testing() -> None:
    split = load_split()
    for speaker in split.test_speakers:
        assert split.part(clip("speechocean762", speaker)) == "test"
    assert split.part(clip("mixed_test", "anybody")) == "test"
    assert split.part(clip("speechocean762", "so762_never_read_digits")) == "train"


def test_takes_of_one_recorded_noise_stay_together() -> None:
    split = load_split()
    parts = {
        fold: split.part(clip("noise_esc10", "", f"x/{fold}-17367-A.opus")) for fold in "12345"
    }
    assert parts == {"1": "train", "2": "train", "3": "train", "4": "dev", "5": "test"}
