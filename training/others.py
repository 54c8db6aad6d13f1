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
from training.labels import FRAME_SAMPLES, SILENT, Labels
from training.material import Material, is_negative, pick
from training.targets import Spoken


@dataclass(frozen=True, slots=True)
class Utterance:
    """A composed waveform and what is in it."""

    samples: Wave
    spoken: list[Spoken]
    labels: Labels
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
        labels = Labels.filled(length, 0, SILENT)
        found = False
        scored, position = True, int(rng.uniform(0, 0.2) * SAMPLE_RATE)
        while rng.random() < 0.9 or not found:
            fitting = bisect_right(lengths, (length - position) * factor)
            if fitting < 3:
                break
            item = items[int(fitting * rng.uniform(0.0, 1.0) ** 0.5)]
            samples = augment.change_speed(item.samples, factor)
            samples = augment.set_level(samples, 0.08)[: length - position]
            sound[position : position + len(samples)] = samples
            labels.place(item.labels.at_speed(factor, len(samples)), position)
            position += len(samples) + int(rng.uniform(0, 0.5) * SAMPLE_RATE)
            found = True
            scored &= table is self._negatives or is_negative(item)
        if not found:
            return Utterance(*self._excerpt(length), is_speech=True, is_scored=True)
        return Utterance(sound, [], labels, is_speech=True, is_scored=scored)

    def _excerpt(self, length: int) -> tuple[Wave, list[Spoken], Labels]:
        """Return some of a sentence that has no digits in it."""
        rng = self.rng
        items = self._negatives["speechocean762" if rng.random() < 0.7 else "tts"]
        item = pick(rng, items)
        factor = rng.uniform(0.8, 1.25)
        frames = item.entry.length // FRAME_SAMPLES
        size = min(int(length * rng.uniform(0.5, 1) * factor) // FRAME_SAMPLES, frames)
        start = int(rng.integers(frames - size + 1))
        piece = item.part(start, start + size, "", item.entry.source)
        clip = augment.change_speed(piece.samples, factor)[:length]
        sound, labels = np.zeros(length, np.float32), Labels.filled(length, 0, SILENT)
        at = int(rng.integers((length - len(clip)) // FRAME_SAMPLES + 1)) * FRAME_SAMPLES
        sound[at : at + len(clip)] = augment.set_level(clip, 0.08)
        labels.place(piece.labels.at_speed(factor, len(clip)), at)
        return sound, [], labels

    def no_speech(self, length: int) -> Utterance:
        """Return noise, tones or nothing."""
        draw = self.rng.random()
        if draw < 0.15:
            sound = np.zeros(length, np.float32)
        elif draw < 0.35:
            sound = augment.tones(self.rng, length) * np.float32(0.1)
        else:
            sound = self.noise(length)
        labels = Labels.filled(length, 0, SILENT)
        return Utterance(sound, [], labels, is_speech=False, is_scored=True)

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
        factor = rng.uniform(0.7, 1.4)
        needed = int(length * factor) + 2
        clip = item.samples
        clip = np.tile(clip, -(-needed // len(clip)) + 1)
        start = int(rng.integers(len(clip) - needed + 1))
        clip = augment.change_speed(clip[start : start + needed], factor)
        return augment.set_level(np.resize(clip, length), 0.06)

    def babble(self, length: int) -> Wave:
        """Return several people talking at once, none of them saying digits."""
        people = [self._excerpt(length)[0] for _ in range(self.rng.integers(2, 6))]
        return np.asarray(np.sum(people, axis=0), np.float32)

    def background(self, length: int) -> Wave:
        """Return what is to be heard behind speech."""
        return self.babble(length) if self.rng.random() < 0.15 else self.noise(length)
