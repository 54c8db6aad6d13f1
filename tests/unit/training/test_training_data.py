"""Batches are what the model meets in service, and their labels are where the words are."""

import json
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from service.audio.mel import LogMelSpectrogram
from training.compose import SHORTEST_FRAMES, Composer, Piece, degrade
from training.corpora import DIGITS
from training.data import BatchSource, at_positions, choose_frames
from training.labels import FIRST_DIGIT, OTHER, PHONE_IDS, PHONES, SILENT, UNKNOWN
from training.material import Item, Material, load_material
from training.mosaic import PRONUNCIATIONS, Mosaics
from training.spectrogram import Spectrogram, window_frames
from training.store import Entry, Store, write_store
from training.targets import IGNORE

SECOND = 16_000
SPOKEN = {"three": "IY", "four": "AO", "one": "AH", "two": "UW"}


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
        (np.tile(sound, 2), entry("walk two blocks to", "speechocean762")),
        (np.tile(sound, 10), entry("", "noise_esc10")),
    ]
    clips += [(np.tile(sound, 2), entry("they walk", source)) for source in ("tts", "ljspeech")]
    for name in ("corpora", "tts"):
        write_clips(tmp_path, name, [c for c in clips if (c[1].source == "tts") == (name == "tts")])
    return load_material(tmp_path, "train")


def write_clips(folder: Path, name: str, clips: list[tuple[NDArray[np.int16], Entry]]) -> None:
    """Write a store whose clips are aligned as if all their words were equally long."""
    write_store(folder / name, clips)
    rows = []
    for sound, item in clips:
        words = item.text.split()
        size = len(sound) // 160 // max(len(words), 1)
        phones = [SPOKEN.get(word, "AH") for word in words]
        rows.append(
            {
                "words": [(word, n * size, size) for n, word in enumerate(words)],
                "phones": [(phone, n * size, size) for n, phone in enumerate(phones)],
            }
            if words
            else None
        )
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / f"{name}.phones.jsonl").write_text(lines, encoding="utf-8")


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


def test_words_of_made_voices_are_kept_apart_from_those_of_people(
    tmp_path: Path, material: Material
) -> None:
    sound = np.full(SECOND, 3000, np.int16)
    write_clips(tmp_path, "voices", [(sound, entry("one two", "voices", "nobody"))])
    found = load_material(tmp_path, "train").words
    assert "voices" not in material.words
    assert [item.words for item in found["voices"]["nobody"]] == [("one",), ("two",)]
    assert "nobody" not in found["cuts"]


def test_a_clipped_word_keeps_its_labels_and_times(material: Material) -> None:
    whole = Piece.of(material.words["fsdd"]["somebody"][0])
    clipped = whole.clipped(3, 2)
    frames = len(whole.labels.tags)
    assert len(clipped.samples) == len(whole.samples) - 5 * 160
    assert np.array_equal(clipped.samples, whole.samples[480:-320])
    assert len(clipped.labels.tags) == frames - 5
    assert clipped.words == [("one", 0, frames - 5)]


def test_strangers_need_no_alignment(tmp_path: Path, material: Material) -> None:
    sound = np.full(SECOND, 3000, np.int16)
    said = [(sound, entry(word, "strangers", "nobody")) for word in ("one", "walk")]
    write_store(tmp_path / "strangers", said)
    found = load_material(tmp_path, "train")
    (digit,) = found.words["strangers"]["nobody"]
    assert set(digit.labels.tags) == {FIRST_DIGIT + 1}
    assert set(digit.labels.phones) == {UNKNOWN}
    (other,) = found.words["others"]["nobody"]
    assert set(other.labels.tags) == {OTHER}
    assert set(found.sentences) == set(material.sentences)


def test_an_alignment_that_was_forgotten_is_an_error(tmp_path: Path, material: Material) -> None:
    assert material.words
    (tmp_path / "tts.phones.jsonl").unlink()
    with pytest.raises(FileNotFoundError, match=r"tts\.phones"):
        load_material(tmp_path, "train")


def test_a_word_is_trimmed_where_it_is_quieter_than_a_level(material: Material) -> None:
    piece = Piece.of(material.words["fsdd"]["somebody"][0])
    frames = len(piece.samples) // 160
    loudness = np.full(frames, 0.001, np.float32)
    loudness[10:30] = 0.1
    loudness[30:35] = 0.01  # 20 dB under the loudest
    time = np.arange(frames * 160) / SECOND
    tone = np.sin(2 * np.pi * 400 * time).astype(np.float32) * np.repeat(loudness, 160)
    word = Piece(tone, piece.labels, piece.words)
    lengths = [len(word.trimmed(drop).samples) // 160 for drop in (10, 25, 70)]
    assert np.abs(np.subtract(lengths, [20, 25, frames])).max() <= 1  # the filter rings a little
    assert np.array_equal(word.trimmed(10).samples, tone[1600:4800])
    assert len(word.trimmed(0.001).samples) >= SHORTEST_FRAMES * 160


def test_utterances_have_the_wanted_length(material: Material) -> None:
    composer = Composer(material, np.random.default_rng(1))
    for length in (SECOND, 3 * SECOND, 8 * SECOND):
        for _ in range(20):
            utterance = composer.utterance(length // 2, length)
            assert length // 2 <= len(degrade(utterance, composer, 1.0)) <= length


def test_joined_words_are_in_order_and_hardly_overlap(material: Material) -> None:
    composer = Composer(material, np.random.default_rng(2))
    for _ in range(20):
        spoken = composer.digits(SECOND, 6 * SECOND).spoken
        assert all(item.start_s < item.end_s for item in spoken)
        assert all(after.start_s > item.end_s - 0.06 for item, after in pairwise(spoken))
        assert not spoken or spoken[-1].end_s <= 6.0


def test_digits_within_strings_become_words(material: Material) -> None:
    item = material.strings["tts"]["somebody"][0]
    assert item.alignment is not None
    assert [(word, count) for word, _, count in item.alignment.words] == [
        ("three", 25),
        ("four", 25),
    ]
    assert set(item.labels.tags[5:20]) == {FIRST_DIGIT + 3}
    assert set(item.labels.tags[30:45]) == {FIRST_DIGIT + 4}
    assert set(item.labels.phones[5:20]) == {PHONE_IDS["IY"]}


def test_digits_are_cut_out_of_what_else_was_said(material: Material) -> None:
    cut = material.words["cuts"]["somebody"][0]
    assert cut.words == ("two",)
    assert cut.entry.length == 27 * 160
    sentence = next(i for i in material.sentences["speechocean762"] if "two" in i.words)
    assert np.array_equal(cut.samples, sentence.samples[24 * 160 : 51 * 160])


def test_labels_follow_the_words_when_they_are_joined(material: Material) -> None:
    composer = Composer(material, np.random.default_rng(2))
    for _ in range(20):
        utterance = composer.digits(SECOND, 6 * SECOND)
        for item in utterance.spoken:
            middle = round((item.start_s + item.end_s) / 2 * 100)
            wanted = FIRST_DIGIT + DIGITS.index(item.words[0])
            assert utterance.labels.tags[middle] == wanted


def test_other_words_joined_like_digits_are_none(material: Material) -> None:
    composer = Composer(material, np.random.default_rng(2))
    made = [composer.joined(SECOND, 3 * SECOND, "others", (0.9, 1.1)) for _ in range(20)]
    assert not any(utterance.spoken for utterance in made)
    assert all(utterance.is_speech and utterance.is_scored for utterance in made)
    assert {int(tag) for utterance in made for tag in utterance.labels.tags} == {SILENT, OTHER}


def test_sentences_are_tagged_as_other_speech(material: Material) -> None:
    composer = Composer(material, np.random.default_rng(2))
    tags = {int(tag) for _ in range(30) for tag in composer.others.speech(3 * SECOND).labels.tags}
    assert tags == {SILENT, OTHER}


def test_a_clip_without_alignment_teaches_what_is_certain(tmp_path: Path) -> None:
    sound = np.full(SECOND // 2, 500, np.int16)
    for name in ("corpora", "tts"):
        write_store(tmp_path / name, [(sound, entry("one", "fsdd")), (sound, entry("up", "tts"))])
        (tmp_path / f"{name}.phones.jsonl").write_text('{"words": [], "phones": []}\nnull\n')
    one = load_material(tmp_path, "train").words["fsdd"]["somebody"][0]
    assert set(one.labels.tags) == {FIRST_DIGIT + 1}
    assert set(one.labels.phones) == {UNKNOWN}


def test_positions_are_every_other_label_and_padding_is_silent() -> None:
    labels = np.array([3, 9, UNKNOWN, 9, 4], np.uint8)
    assert at_positions(labels, 5).tolist() == [3, IGNORE, 4, 0, 0]


def test_a_digit_is_put_together_from_the_sounds_of_a_sentence(tmp_path: Path) -> None:
    phones = sorted({p for spoken in PRONUNCIATIONS.values() for t in spoken for p in t.split()})
    sound = np.repeat(np.arange(len(phones), dtype=np.int16) * 100 + 1000, 1600)
    write_store(tmp_path / "corpora", [(sound, entry("they walk", "speechocean762"))])
    row = {
        "words": [("they", 0, 10), ("walk", 10, 10)],
        "phones": [(phone, n * 10, 10) for n, phone in enumerate(phones)],
    }
    (tmp_path / "corpora.phones.jsonl").write_text(json.dumps(row) + "\n")
    write_clips(tmp_path, "tts", [(sound, entry("up", "tts"))])
    mosaics = Mosaics(load_material(tmp_path, "train").sentences["speechocean762"])
    assert mosaics.speakers == ["somebody"]
    rng = np.random.default_rng(0)
    for _ in range(20):
        samples, labels, word = mosaics.word(rng, "somebody")
        said = [PHONES[index] for index in labels.phones[5::10]]
        assert " ".join(said) in PRONUNCIATIONS[word]
        assert set(labels.tags) == {FIRST_DIGIT + DIGITS.index(word)}
        assert abs(len(samples) - len(labels.tags) * 160) <= 160
        gain = 0.08 / np.sqrt(np.mean((sound / 32768.0) ** 2))
        middles = [samples[n * 1600 + 800] for n in range(len(said))]
        wanted = [(phones.index(phone) * 100 + 1000) / 32768 * gain for phone in said]
        assert np.allclose(middles, wanted, rtol=1e-4)


def test_batches_repeat_and_their_parts_agree(material: Material) -> None:
    source = BatchSource(material, seed=1, rank=0, frames_per_batch=1500)
    first = source.batch(3)
    source.batch(4)
    again = source.batch(3)
    assert torch.equal(first.mel, again.mel)
    assert torch.equal(first.labels, again.labels)
    assert first.phones.shape == first.tags.shape == (len(first.mel), first.mel.shape[2] // 2)
    assert first.inputs.shape == first.labels.shape


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
    assert max(choose_frames(rng, 0) for _ in range(50)) == 192
    assert max(choose_frames(rng, 10_000) for _ in range(500)) > 2000
