"""Everything that is not digits: sentences, parts of them, noise, tones, babble, silence.

Knows nothing about digits or batches.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from training import augment
from training.augment import SAMPLE_RATE, Wave
from training.material import Material, is_negative, pick
from training.targets import Spoken


@dataclass(frozen=True, slots=True)
class Utterance:
    """A composed waveform and what is in it; `text` is None where nobody knows it."""

    samples: Wave
    spoken: list[Spoken]
    text: str | None
    is_speech: bool
    is_scored: bool
    """Whether the decoder learns from it: not from sentences that have digits among words."""


class OtherSounds:
    """Draws sounds without digits from the material."""

    def __init__(self, material: Material, rng: Generator) -> None:
        self.rng = rng
        self._noises = material.noises
        self._sentences = material.sentences
        seconds = 10 * SAMPLE_RATE
        self._colours = [augment.coloured_noise(rng, seconds) for _ in range(48)]
        self._negatives = {
            source: [item for item in items if is_negative(item)]
            for source, items in material.sentences.items()
        }
        self._lengths = {
            id(items): [item.entry.length for item in items]
            for table in (material.sentences, self._negatives)
            for items in table.values()
        }

    def speech(self, length: int) -> Utterance:
        """Return sentences, or a part of one where a whole one does not fit."""
        rng = self.rng
        draw = rng.random()
        table = self._negatives if rng.random() < 0.75 else self._sentences
        source = "speechocean762" if draw < 0.65 else ("ljspeech" if draw < 0.77 else "tts")
        items = table.get(source) or next(iter(table.values()))
        lengths = self._lengths[id(items)]
        factor = rng.uniform(0.8, 1.25)
        sound = np.zeros(length, np.float32)
        texts: list[str] = []
        scored, position = True, int(rng.uniform(0, 0.2) * SAMPLE_RATE)
        while rng.random() < 0.9 or not texts:
            fitting = bisect_right(lengths, (length - position) * factor)
            if fitting < 3:
                break
            item = items[int(fitting * rng.uniform(0.0, 1.0) ** 0.5)]
            samples = augment.change_speed(item.store.samples(item.entry), factor)
            samples = augment.set_level(samples, 0.08)[: length - position]
            sound[position : position + len(samples)] = samples
            position += len(samples) + int(rng.uniform(0, 0.5) * SAMPLE_RATE)
            texts.append(item.entry.text)
            scored &= table is self._negatives or is_negative(item)
        if not texts:
            return Utterance(self._excerpt(length), [], None, is_speech=True, is_scored=True)
        return Utterance(sound, [], " ".join(texts), True, scored)

    def _excerpt(self, length: int) -> Wave:
        """Return some of a sentence that has no digits in it."""
        rng = self.rng
        items = self._negatives["speechocean762" if rng.random() < 0.7 else "tts"]
        item = pick(rng, items)
        clip = augment.change_speed(item.store.samples(item.entry), rng.uniform(0.8, 1.25))
        size = min(int(length * rng.uniform(0.5, 1)), len(clip))
        start = int(rng.integers(len(clip) - size + 1))
        sound = np.zeros(length, np.float32)
        at = int(rng.integers(length - size + 1))
        sound[at : at + size] = augment.set_level(clip[start : start + size], 0.08)
        return sound

    def no_speech(self, length: int) -> Utterance:
        """Return noise, tones or nothing."""
        draw = self.rng.random()
        if draw < 0.15:
            sound = np.zeros(length, np.float32)
        elif draw < 0.35:
            sound = augment.tones(self.rng, length) * np.float32(0.1)
        else:
            sound = self.noise(length)
        return Utterance(sound, [], "", is_speech=False, is_scored=True)

    def noise(self, length: int) -> Wave:
        """Return environmental or coloured noise, or both."""
        rng = self.rng
        sound = np.zeros(length, np.float32)
        kind = rng.random()
        if kind < 0.65:
            sound += self._recorded_noise(length)
        if kind > 0.45:
            sound += augment.set_level(self.coloured(length), rng.uniform(0.005, 0.1))
        return sound

    def coloured(self, length: int) -> Wave:
        """Return stationary noise of a random colour."""
        clip = pick(self.rng, self._colours)
        clip = np.tile(clip, -(-length // len(clip)) + 1)
        start = int(self.rng.integers(len(clip) - length + 1))
        return clip[start : start + length]

    def _recorded_noise(self, length: int) -> Wave:
        rng = self.rng
        item = pick(rng, self._noises)
        clip = augment.change_speed(item.store.samples(item.entry), rng.uniform(0.7, 1.4))
        clip = np.tile(clip, -(-length // len(clip)) + 1)
        start = int(rng.integers(len(clip) - length + 1))
        return augment.set_level(clip[start : start + length], 0.06)

    def babble(self, length: int) -> Wave:
        """Return several people talking at once, none of them saying digits."""
        people = [self._excerpt(length) for _ in range(self.rng.integers(2, 6))]
        return np.asarray(np.sum(people, axis=0), np.float32)

    def background(self, length: int) -> Wave:
        """Return what is to be heard behind speech."""
        return self.babble(length) if self.rng.random() < 0.15 else self.noise(length)
