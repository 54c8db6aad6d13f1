"""Batches are what the model meets in service, and their labels are where the words are."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from service.audio.mel import LogMelSpectrogram
from training.compose import Composer, degrade
from training.data import FIRST_DIGIT, OTHER, SILENT, choose_frames, tag_positions
from training.material import Item, Material, load_material
from training.others import Utterance
from training.spectrogram import Spectrogram, window_frames
from training.store import Entry, Store, write_store
from training.targets import IGNORE, Spoken

SECOND = 16_000


def entry(text: str, source: str, speaker: str = "somebody") -> Entry:
    return Entry(0, 0, text, speaker, source, "train")


@pytest.fixture(name="material")
def made_material(tmp_path: Path) -> Material:
    rng = np.random.default_rng(0)
    sound = (rng.standard_normal(SECOND // 2) * 3000).astype(np.int16)
    clips = [
        (sound, entry("one", "fsdd")),
        (sound, entry("two", "fsdd")),
        (sound, entry("three four", "tts")),
        (np.tile(sound, 3), entry("we walk home", "speechocean762")),
        (np.tile(sound, 10), entry("", "noise_esc10")),
    ]
    clips += [(np.tile(sound, 2), entry("they walk", source)) for source in ("tts", "ljspeech")]
    write_store(tmp_path / "corpora", clips)
    return load_material(tmp_path, "train")


def test_a_store_gives_back_what_was_written(tmp_path: Path) -> None:
    clips = [(np.arange(n, dtype=np.int16), entry(str(n), "tts")) for n in (5, 7)]
    assert write_store(tmp_path / "some", clips) == 2
    store = Store(tmp_path / "some")
    assert [item.text for item in store.entries] == ["5", "7"]
    assert store.samples(store.entries[1])[6] == pytest.approx(6 / 32768)


def test_clips_are_filed_by_use(material: Material) -> None:
    assert [item.words for item in material.words["fsdd"]["somebody"]] == [("one",), ("two",)]
    assert [len(items) for items in material.strings["tts"].values()] == [1]
    assert set(material.sentences) == {"speechocean762", "tts", "ljspeech"}
    assert isinstance(material.noises[0], Item)


def test_utterances_have_the_wanted_length(material: Material) -> None:
    composer = Composer(material, np.random.default_rng(1))
    for length in (SECOND, 3 * SECOND, 8 * SECOND):
        for _ in range(20):
            utterance = composer.utterance(length // 2, length)
            assert length // 2 <= len(degrade(utterance, composer, 1.0)) <= length


def test_joined_words_do_not_overlap(material: Material) -> None:
    composer = Composer(material, np.random.default_rng(2))
    for _ in range(20):
        spoken = composer.digits(SECOND, 6 * SECOND).spoken
        times = [time for item in spoken for time in (item.start_s, item.end_s)]
        assert times == sorted(times)
        assert not times or times[-1] <= 6.0


def test_positions_are_tagged_with_what_is_heard_there() -> None:
    silence = np.zeros(2 * SECOND, np.float32)
    spoken = [Spoken(0.2, 0.4, ("three",)), Spoken(0.6, 1.0, ("one", "two"))]
    tags = tag_positions(Utterance(silence, spoken, "", True, True), 128)
    assert set(tags[10:20].tolist()) == {FIRST_DIGIT + 3}
    assert set(tags[30:50].tolist()) == {IGNORE}
    assert set(tags[50:].tolist()) == {SILENT}


def test_loud_positions_of_other_speech_are_tagged_as_such() -> None:
    sound = np.concatenate([np.zeros(SECOND), np.full(SECOND, 0.1)]).astype(np.float32)
    tags = tag_positions(Utterance(sound, [], "they walk", True, True), 128)
    assert set(tags[:50].tolist()) == {SILENT}
    assert set(tags[50:100].tolist()) == {OTHER}


def test_the_spectrogram_is_the_services_and_padded_in_mel_space() -> None:
    sound = (np.random.default_rng(0).standard_normal(SECOND) * 0.1).astype(np.float32)
    frames = window_frames(sound)
    mel = Spectrogram()([sound], frames, None)
    whole = LogMelSpectrogram(80)(torch.from_numpy(sound)[None])
    assert mel.shape == (1, 80, frames)
    assert frames == 128
    assert torch.allclose(mel[:, :, :98], whole[:, :, :98], atol=1e-4)
    assert not mel[:, :, 100:].any()


def test_lessons_begin_short() -> None:
    rng = random.Random(0)
    assert max(choose_frames(rng, 0) for _ in range(50)) == 128
    assert max(choose_frames(rng, 10_000) for _ in range(500)) > 2000
