"""Scores a model in training on the development speakers. Knows nothing about the test part."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import jiwer
import numpy as np
import torch
from scipy.signal import resample_poly
from torch import Tensor

from training import augment
from training.augment import SAMPLE_RATE, Wave
from training.compose import Piece
from training.data import at_positions
from training.greedy import transcribe, words
from training.material import Item, Material, is_negative, load_material
from training.network import Trainee
from training.spectrogram import Spectrogram, window_frames

CUT_DB = 14.0
"""How far under its loudest part a word begins and ends that is cut short."""


@torch.inference_mode()
def run(model: Trainee, clips: list[Wave], *, timestamps: bool) -> list[list[str]]:
    """Return the decoder's words for each clip."""
    decoded: list[list[str]] = [[] for _ in clips]
    for indices, mel in _by_length(clips):
        tokens = transcribe(model.whisper, mel, timestamps=timestamps)
        for index, row in zip(indices, tokens, strict=True):
            decoded[index] = words(row)
    return decoded


@torch.inference_mode()
def phones_right(model: Trainee, items: list[Item]) -> float:
    """Return the share of positions whose phone, other than silence, is recognised."""
    right = total = 0
    for indices, mel in _by_length([item.samples for item in items]):
        found = model.speller(model.whisper.encoder(mel)).argmax(dim=-1)
        for index, row in zip(indices, found, strict=True):
            wanted = at_positions(items[index].labels.phones, len(row))
            sounding = wanted > 0
            right += int((row == wanted)[sounding].sum())
            total += int(sounding.sum())
    return right / max(total, 1)


def _by_length(clips: list[Wave]) -> Iterator[tuple[list[int], Tensor]]:
    """Yield windows of one length with the indices of their clips; mel f32[b n_mels t]."""
    spectrogram = Spectrogram()
    by_frames: dict[int, list[int]] = defaultdict(list)
    for index, sound in enumerate(clips):
        by_frames[window_frames(sound)].append(index)
    for frames, indices in by_frames.items():
        yield indices, spectrogram([clips[i] for i in indices], frames, None)


class Follower:
    """Holds the development clips, clean and in noise at 10 dB, and some that were trained on."""

    def __init__(self, cache: Path) -> None:
        rng = np.random.default_rng(3)
        material = load_material(cache, "dev")
        strings = self.strings = _strings(material)
        self.texts = [item.entry.text for item in strings]
        self.clean = [_samples(item) for item in strings]
        self.noisy = [
            augment.add_noise(sound, _fit(rng, material.noises, len(sound)), 10.0)
            for sound in self.clean
        ]
        known = load_material(cache, "train")
        strings = _strings(known)[::3]
        self.known_texts = [item.entry.text for item in strings]
        self.known = [_samples(item) for item in strings]
        singles = [item for items in known.words["fsdd"].values() for item in items[::25]]
        words = [item for items in material.words["cuts"].values() for item in items]
        self.word_texts = [item.entry.text for item in words]
        self.words = [_as_quiet_call(_samples(item)) for item in words]
        self.cut_words = [_as_quiet_call(Piece.of(item).trimmed(CUT_DB).samples) for item in words]
        self.single_texts = [item.entry.text for item in singles]
        self.singles = [_samples(item) for item in singles]
        others = [i for items in material.sentences.values() for i in items if is_negative(i)]
        self.others = [_samples(item) for item in others + material.noises[::2]]
        self.sentences = others

    def report(self, model: Trainee) -> str:
        """Return one line of figures."""
        clean = run(model, self.clean, timestamps=True)
        plain = run(model, self.clean, timestamps=False)
        noisy = run(model, self.noisy, timestamps=True)
        by_themselves = run(model, self.words, timestamps=True)
        cut = run(model, self.cut_words, timestamps=True)
        known = run(model, self.known, timestamps=True)
        singles = run(model, self.singles, timestamps=True)
        others = run(model, self.others, timestamps=True)
        false = sum(bool(found) for found in others) / len(others)
        return (
            f"dev WER {_wer(self.texts, clean):.1%}, without timestamps "
            f"{_wer(self.texts, plain):.1%}, at 10 dB {_wer(self.texts, noisy):.1%}, "
            f"their words alone {_wer(self.word_texts, by_themselves):.1%} "
            f"({sum(not found for found in by_themselves)} of {len(self.words)} not heard), "
            f"cut short {_wer(self.word_texts, cut):.1%}; "
            f"of training strings {_wer(self.known_texts, known):.1%}, "
            f"singles {_wer(self.single_texts, singles):.1%}; "
            f"false digits {false:.1%}; phones right: digits "
            f"{phones_right(model, self.strings):.1%}, "
            f"sentences {phones_right(model, self.sentences):.1%}"
        )


def _strings(material: Material) -> list[Item]:
    return [i for by in material.strings["speechocean762"].values() for i in by]


def _wer(texts: list[str], found: list[list[str]]) -> float:
    rate: float = jiwer.wer(texts, [" ".join(row) for row in found])
    return rate


def _samples(item: Item) -> Wave:
    return item.samples


def _as_quiet_call(sound: Wave) -> Wave:
    """Return a clip as a quiet recording at 8 kHz, which is what single words often are."""
    narrow = resample_poly(resample_poly(sound, 1, 2), 2, 1)
    quiet = augment.set_level(np.asarray(narrow, np.float32), 0.005)
    return np.asarray(np.round(quiet * 32767) / 32767, np.float32)


def _fit(rng: np.random.Generator, noises: list[Item], length: int) -> Wave:
    noise = _samples(noises[int(rng.integers(len(noises)))])
    return np.resize(np.roll(noise, int(rng.integers(5 * SAMPLE_RATE))), length)
