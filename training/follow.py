"""Scores a model in training on the development speakers. Knows nothing about the test part."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import jiwer
import numpy as np
import torch

from training import augment
from training.augment import SAMPLE_RATE, Wave
from training.greedy import sounds, transcribe, words
from training.material import Item, Material, is_negative, load_material
from training.network import Trainee
from training.phonemes import Lexicon
from training.spectrogram import Spectrogram, window_frames


@torch.inference_mode()
def run(
    model: Trainee, clips: list[Wave], *, timestamps: bool
) -> tuple[list[list[str]], list[list[int]]]:
    """Return the decoder's words and the CTC's sounds for each clip."""
    spectrogram = Spectrogram()
    by_frames: dict[int, list[int]] = defaultdict(list)
    for index, sound in enumerate(clips):
        by_frames[window_frames(sound)].append(index)
    decoded: list[list[str]] = [[] for _ in clips]
    heard: list[list[int]] = [[] for _ in clips]
    for frames, indices in by_frames.items():
        mel = spectrogram([clips[i] for i in indices], frames, None)
        phonemes = sounds(model.spell(model.whisper.encoder(mel)))
        tokens = transcribe(model.whisper, mel, timestamps=timestamps)
        for index, text, row in zip(indices, phonemes, tokens, strict=True):
            heard[index], decoded[index] = text, words(row)
    return decoded, heard


class Follower:
    """Holds the development clips, clean and in noise at 10 dB, and some that were trained on."""

    def __init__(self, cache: Path) -> None:
        rng = np.random.default_rng(3)
        material = load_material(cache, "dev")
        self._lexicon = Lexicon(cache / "lexicon.json")
        strings = _strings(material)
        self.texts = [item.entry.text for item in strings]
        self.clean = [_samples(item) for item in strings]
        self.noisy = [
            augment.add_noise(sound, _fit(rng, material.noises, len(sound)), 10.0)
            for sound in self.clean
        ]
        known = _strings(load_material(cache, "train"))[::3]
        self.known_texts = [item.entry.text for item in known]
        self.known = [_samples(item) for item in known]
        others = [i for items in material.sentences.values() for i in items if is_negative(i)]
        self.others = [_samples(item) for item in others + material.noises[::2]]
        self.other_texts = [item.entry.text for item in others]

    def report(self, model: Trainee) -> str:
        """Return one line of figures."""
        clean, heard = run(model, self.clean, timestamps=True)
        plain, _ = run(model, self.clean, timestamps=False)
        noisy, _ = run(model, self.noisy, timestamps=True)
        known, _ = run(model, self.known, timestamps=True)
        others, other_heard = run(model, self.others, timestamps=True)
        false = sum(bool(found) for found in others) / len(others)
        wrong = self._sounds(self.texts, heard), self._sounds(self.other_texts, other_heard)
        return (
            f"dev WER {_wer(self.texts, clean):.1%}, without timestamps "
            f"{_wer(self.texts, plain):.1%}, at 10 dB {_wer(self.texts, noisy):.1%}; "
            f"heard in training {_wer(self.known_texts, known):.1%}; "
            f"false digits {false:.1%}; "
            f"phonemes wrong: digits {wrong[0]:.1%}, sentences {wrong[1]:.1%}"
        )

    def _sounds(self, texts: list[str], heard: list[list[int]]) -> float:
        wanted = [" ".join(map(str, self._lexicon.text(text))) for text in texts]
        rate: float = jiwer.wer(wanted, [" ".join(map(str, row)) for row in heard[: len(texts)]])
        return rate


def _strings(material: Material) -> list[Item]:
    return [i for by in material.strings["speechocean762"].values() for i in by]


def _wer(texts: list[str], found: list[list[str]]) -> float:
    rate: float = jiwer.wer(texts, [" ".join(row) for row in found])
    return rate


def _samples(item: Item) -> Wave:
    return item.store.samples(item.entry)


def _fit(rng: np.random.Generator, noises: list[Item], length: int) -> Wave:
    noise = _samples(noises[int(rng.integers(len(noises)))])
    return np.resize(np.roll(noise, int(rng.integers(5 * SAMPLE_RATE))), length)
