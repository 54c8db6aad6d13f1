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

from service.audio.mel import HOP_LENGTH
from training.augment import SAMPLE_RATE
from training.compose import Composer, degrade
from training.corpora import DIGITS
from training.material import Material
from training.others import Utterance
from training.phonemes import Lexicon
from training.spectrogram import MAX_FRAMES, ROUNDING_FRAMES, Spectrogram
from training.targets import IGNORE, TokenTargets, collate, token_targets

SHORTEST = 2000
"""Samples of the shortest utterance: an eighth of a second."""
SILENT, OTHER, FIRST_DIGIT = 0, 1, 2
POSITIONS_PER_S = 50
QUIET, LOUD = 0.005, 0.03
"""Levels (RMS) under which a position in a sentence is silent, and over which it is speech."""
EASY_STEPS, RAMP_STEPS = 2200, 9000
LESSONS = ((500, 128), (900, 192), (2600, 384), (9500, 512))
"""Until which step batches are at most so many frames long."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch of windows of `t` frames, with targets of `s` tokens.

    Shapes: mel f32[b n_mels t]; inputs, labels i64[b s]; tags i64[b t/2]; sounds i64[all of them].

    """

    mel: Tensor
    inputs: Tensor
    labels: Tensor
    tags: Tensor
    sounds: Tensor
    sound_lengths: Tensor
    sound_rows: Tensor

    @property
    def seconds(self) -> float:
        """Audio in the batch, padding included."""
        return float(self.mel.shape[0] * self.mel.shape[2] / 100)


def strength_at(step: int) -> float:
    """Return how strong augmentation is: a model that has learnt nothing needs easy examples."""
    return float(np.clip((step - EASY_STEPS) / RAMP_STEPS, 0.15, 1))


def choose_frames(rng: random.Random, step: int) -> int:
    """Return the frames of a batch: mostly 1.5 to 8 s, some shorter, a few up to 30 s.

    It begins with single words, from which a model learns to listen within minutes, and takes
    several times as long otherwise.
    """
    frames: float
    draw = rng.random()
    longest = next((frames for until, frames in LESSONS if step < until), MAX_FRAMES)
    if draw < 0.15:
        frames = ROUNDING_FRAMES * rng.choice((1, 1, 2))
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

    def __init__(
        self, material: Material, lexicon: Lexicon, seed: int, rank: int, frames_per_batch: int
    ) -> None:
        self.composer = Composer(material, np.random.default_rng(0))
        self.seed, self.rank, self.frames_per_batch = seed, rank, frames_per_batch
        self._lexicon = lexicon
        self._spectrogram = Spectrogram()

    def batch(self, step: int) -> Batch:
        """Compose the batch; its length is the same on every rank."""
        shared = random.Random(self.seed * 1_000_003 + step)
        strength = strength_at(step)
        frames = choose_frames(shared, step)
        prompt = choose_prompt(shared) if strength == 1 else 0
        rng = np.random.default_rng((self.seed, step, self.rank))
        torch.manual_seed(int(rng.integers(2**31)))
        self.composer.reseed(rng)
        self.composer.digit_share = 0.6 if step >= LESSONS[-2][0] else 0.75
        count = max(2, min(self.frames_per_batch // frames, 48))
        utterances, sounds = [], []
        for _ in range(count):
            longest = frames * HOP_LENGTH
            shortest = max(longest - ROUNDING_FRAMES * HOP_LENGTH + HOP_LENGTH, SHORTEST)
            length = int(rng.integers(shortest, longest))
            if frames == ROUNDING_FRAMES and rng.random() < 0.7:
                length = longest
            utterances.append(self.composer.utterance(shortest, length))
            sounds.append(degrade(utterances[-1], self.composer, strength))
        mel = self._spectrogram(sounds, frames, rng, strength)
        chooser = random.Random(int(rng.integers(2**31)))
        inputs, labels = collate([_targets(u, chooser, prompt) for u in utterances])
        tags = torch.stack([tag_positions(item, frames // 2) for item in utterances])
        return Batch(mel, inputs, labels, tags, *self._sounds(utterances))

    def _sounds(self, utterances: list[Utterance]) -> tuple[Tensor, Tensor, Tensor]:
        rows = [row for row, item in enumerate(utterances) if item.text is not None]
        spoken = [self._lexicon.text(utterances[row].text or "") for row in rows]
        flat = [sound for sounds in spoken for sound in sounds]
        lengths = [len(sounds) for sounds in spoken]
        return torch.tensor(flat), torch.tensor(lengths), torch.tensor(rows)


def tag_positions(utterance: Utterance, positions: int) -> Tensor:
    """Return what is heard at each encoder position, i64[positions]: SILENT, OTHER or a digit.

    IGNORE within strings, whose inner times are not known, and in what is quiet in sentences.
    """
    tags = torch.full((positions,), SILENT)
    for item in utterance.spoken:
        tag = DIGITS.index(item.words[0]) + FIRST_DIGIT if len(item.words) == 1 else IGNORE
        tags[round(item.start_s * POSITIONS_PER_S) : round(item.end_s * POSITIONS_PER_S)] = tag
    if utterance.is_speech and not utterance.spoken:
        size = SAMPLE_RATE // POSITIONS_PER_S
        whole = utterance.samples[: len(utterance.samples) // size * size].reshape(-1, size)
        level = torch.from_numpy(np.sqrt(np.square(whole).mean(axis=1)))[:positions]
        tags[: len(level)][level > QUIET] = IGNORE
        tags[: len(level)][level > LOUD] = OTHER if utterance.is_scored else IGNORE
    return tags


def _targets(utterance: Utterance, rng: random.Random, prompt: int) -> TokenTargets:
    length = rng.randint(0, prompt) if prompt else 0
    made = token_targets(utterance.spoken, rng, timestamps=rng.random() < 0.6, prompt_tokens=length)
    return made if utterance.is_scored else TokenTargets(made.inputs, [IGNORE] * len(made.labels))
