"""Makes training batches on the fly. Knows nothing about the model or the loss.

All items of a batch fill the same number of mel frames, up to the rounding that windows are served
with, so that no masks are needed: padding within the rounding is what the model meets in service.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from service.audio.filterbank import HOP_LENGTH
from training.compose import Composer, degrade
from training.labels import SILENT, UNKNOWN, Labels8
from training.material import Material
from training.others import Utterance
from training.spectrogram import MAX_FRAMES, ROUNDING_FRAMES, Spectrogram
from training.targets import IGNORE, TokenTargets, collate, token_targets

SHORTEST = 2000
"""Samples of the shortest utterance: an eighth of a second."""
FRAMES_PER_POSITION = 2
EASY_STEPS, RAMP_STEPS = 1500, 4000
LESSONS = ((600, 192), (1500, 320), (3000, 640))
"""Until which step batches are at most so many frames long."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch of windows of `t` frames, with targets of `s` tokens.

    Shapes: mel f32[b n_mels t]; inputs, labels i64[b s]; phones, tags i64[b t/2].
    """

    mel: Tensor
    inputs: Tensor
    labels: Tensor
    phones: Tensor
    tags: Tensor

    @property
    def seconds(self) -> float:
        """Audio in the batch, padding included."""
        return float(self.mel.shape[0] * self.mel.shape[2] / 100)


def strength_at(step: int) -> float:
    """Return how strong augmentation is: a model that has learnt nothing needs easy examples."""
    return float(np.clip((step - EASY_STEPS) / RAMP_STEPS, 0.15, 1))


def choose_frames(rng: random.Random, step: int) -> int:
    """Return the frames of a batch: two in five single words, most up to 8 s, a few up to 30 s.

    It begins with short ones, from which a model learns to listen several times as fast.
    """
    frames: float
    draw = rng.random()
    longest = next((frames for until, frames in LESSONS if step < until), MAX_FRAMES)
    if draw < 0.4:
        frames = ROUNDING_FRAMES * rng.choice((1, 1, 1, 2))
    elif longest < MAX_FRAMES:
        frames = rng.uniform(64, longest)
    elif draw < 0.88:
        frames = rng.uniform(128, 768)
    elif draw < 0.97:
        frames = rng.uniform(768, 1536)
    else:
        frames = rng.uniform(1536, 3060)
    return min(-(-int(frames) // ROUNDING_FRAMES) * ROUNDING_FRAMES, MAX_FRAMES)


def choose_prompt(rng: random.Random) -> int:
    """Return how many tokens of previous text the items of a batch may carry."""
    return round(float(np.exp(rng.uniform(0.7, 5.4)))) if rng.random() < 0.2 else 0


class BatchSource:
    """Makes the batch of a step; the same step of the same rank is the same batch."""

    def __init__(self, material: Material, seed: int, rank: int, frames_per_batch: int) -> None:
        self.composer = Composer(material, np.random.default_rng(0))
        self.seed, self.rank, self.frames_per_batch = seed, rank, frames_per_batch
        self._spectrogram = Spectrogram()

    def batch(self, step: int) -> Batch:
        """Compose the batch; its length is the same on every rank."""
        shared = random.Random(self.seed * 1_000_003 + step)
        strength = strength_at(step)
        frames = choose_frames(shared, step)
        prompt = choose_prompt(shared) if step >= LESSONS[-1][0] else 0
        rng = np.random.default_rng((self.seed, step, self.rank))
        torch.manual_seed(int(rng.integers(2**31)))
        self.composer.reseed(rng)
        count = max(2, min(self.frames_per_batch // frames, 56))
        utterances, sounds = [], []
        for _ in range(count):
            longest = frames * HOP_LENGTH
            shortest = max(longest - ROUNDING_FRAMES * HOP_LENGTH + HOP_LENGTH, SHORTEST)
            length = int(rng.integers(shortest, longest))
            if frames == ROUNDING_FRAMES and rng.random() < 0.5:
                length = longest
            utterances.append(self.composer.utterance(shortest, length))
            sounds.append(degrade(utterances[-1], self.composer, strength))
        mel = self._spectrogram(sounds, frames, rng, strength)
        chooser = random.Random(int(rng.integers(2**31)))
        inputs, labels = collate([_targets(u, chooser, prompt) for u in utterances])
        heard = [item.labels for item in utterances]
        phones = torch.stack([at_positions(labels.phones, frames // 2) for labels in heard])
        tags = torch.stack([at_positions(labels.tags, frames // 2) for labels in heard])
        return Batch(mel, inputs, labels, phones, tags)


def at_positions(labels: Labels8, positions: int) -> Tensor:
    """Return labels of 10 ms each at encoder positions, i64[positions]; IGNORE where unknown.

    Padding is silent.
    """
    made = torch.full((positions,), SILENT)
    found = torch.from_numpy(labels[::FRAMES_PER_POSITION].astype(np.int64))[:positions]
    made[: len(found)] = found.masked_fill(found == UNKNOWN, IGNORE)
    return made


def _targets(utterance: Utterance, rng: random.Random, prompt: int) -> TokenTargets:
    length = rng.randint(0, prompt) if prompt else 0
    made = token_targets(utterance.spoken, rng, timestamps=rng.random() < 0.6, prompt_tokens=length)
    return made if utterance.is_scored else TokenTargets(made.inputs, [IGNORE] * len(made.labels))
