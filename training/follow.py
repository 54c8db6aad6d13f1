"""Scores a model in training on the development speakers. Knows nothing about the test part."""

from __future__ import annotations

from collections import defaultdict

import jiwer
import numpy as np
import torch

from service.audio.mel import HOP_LENGTH
from training import augment
from training.augment import SAMPLE_RATE, Wave
from training.data import MAX_FRAMES, ROUNDING_FRAMES, Spectrogram
from training.greedy import spelling, transcribe, words
from training.material import Item, Material, is_negative
from training.network import Trainee


def window_frames(sound: Wave) -> int:
    """Return the served length of a clip of at most 30 s."""
    frames = -(-(len(sound) // HOP_LENGTH) // ROUNDING_FRAMES) * ROUNDING_FRAMES
    return min(max(frames, ROUNDING_FRAMES), MAX_FRAMES)


@torch.inference_mode()
def run(
    model: Trainee, sounds: list[Wave], *, timestamps: bool
) -> tuple[list[list[str]], list[str]]:
    """Return the decoder's words and the CTC's spelling for each clip."""
    spectrogram = Spectrogram()
    by_frames: dict[int, list[int]] = defaultdict(list)
    for index, sound in enumerate(sounds):
        by_frames[window_frames(sound)].append(index)
    decoded: list[list[str]] = [[] for _ in sounds]
    spelt = ["" for _ in sounds]
    for frames, indices in by_frames.items():
        mel = spectrogram([sounds[i] for i in indices], frames, None)
        letters = spelling(model.spell(model.whisper.encoder(mel)))
        tokens = transcribe(model.whisper, mel, timestamps=timestamps)
        for index, text, row in zip(indices, letters, tokens, strict=True):
            spelt[index], decoded[index] = text, words(row)
    return decoded, spelt


class Follower:
    """Holds the development clips, clean and in noise at 10 dB."""

    def __init__(self, material: Material) -> None:
        rng = np.random.default_rng(3)
        strings = [i for by in material.strings.values() for c in by.values() for i in c]
        self.texts = [item.entry.text for item in strings]
        self.clean = [_samples(item) for item in strings]
        self.noisy = [
            augment.add_noise(sound, _fit(rng, material.noises, len(sound)), 10.0)
            for sound in self.clean
        ]
        others = [i for items in material.sentences.values() for i in items if is_negative(i)]
        self.others = [_samples(item) for item in others + material.noises[::2]]
        self.other_texts = [item.entry.text for item in others]

    def report(self, model: Trainee) -> str:
        """Return one line of figures."""
        clean, spelt = run(model, self.clean, timestamps=True)
        plain, _ = run(model, self.clean, timestamps=False)
        noisy, _ = run(model, self.noisy, timestamps=True)
        others, other_spelt = run(model, self.others, timestamps=True)
        false = sum(bool(found) for found in others) / len(others)
        cer = jiwer.cer(self.other_texts, other_spelt[: len(self.other_texts)])
        return (
            f"dev WER {self._wer(clean):.1%}, without timestamps {self._wer(plain):.1%}, "
            f"at 10 dB {self._wer(noisy):.1%}, CTC {jiwer.wer(self.texts, spelt):.1%}; "
            f"false digits {false:.1%}; sentences' CER {cer:.1%}"
        )

    def _wer(self, found: list[list[str]]) -> float:
        rate: float = jiwer.wer(self.texts, [" ".join(row) for row in found])
        return rate


def _samples(item: Item) -> Wave:
    return item.store.samples(item.entry)


def _fit(rng: np.random.Generator, noises: list[Item], length: int) -> Wave:
    noise = _samples(noises[int(rng.integers(len(noises)))])
    return np.resize(np.roll(noise, int(rng.integers(5 * SAMPLE_RATE))), length)
