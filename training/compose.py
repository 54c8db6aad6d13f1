"""Joins words and strings of digits into sequences, and makes them sound like the world.

Knows nothing about batches or the model.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from numpy.random import Generator

from training import augment
from training.augment import SAMPLE_RATE, Wave
from training.material import Item, Material, pick
from training.others import OtherSounds, Utterance
from training.synthesis import speech_level, trim
from training.targets import Spoken

Piece = tuple[Wave, tuple[str, ...]]


class Composer:
    """Draws utterances of a wanted length from the material."""

    def __init__(self, material: Material, rng: Generator) -> None:
        self.material = material
        self.rng = rng
        self.digit_share = 0.6
        self.others = OtherSounds(material, rng)
        cuts = material.words.get("cuts", {})
        self._versatile = {
            speaker: items for speaker, items in cuts.items() if len({i.words for i in items}) > 4
        }
        self._by_word: dict[str, list[Item]] = defaultdict(list)
        for items in cuts.values():
            for item in items:
                self._by_word[item.entry.text].append(item)

    def reseed(self, rng: Generator) -> None:
        """Draw from this generator from now on."""
        self.rng = self.others.rng = rng

    def utterance(self, shortest: int, length: int) -> Utterance:
        """Return `shortest` to `length` samples of digits or of anything else."""
        draw = self.rng.random()
        if draw < self.digit_share:
            return self.digits(shortest, length)
        return self.others.speech(length) if draw < 0.88 else self.others.no_speech(length)

    def digits(self, shortest: int, length: int) -> Utterance:
        """Join words and strings of digits with pauses; some end with the last word."""
        rng = self.rng
        source, speakers, speed = self._choose_voice(length)
        factor = rng.uniform(0.75, 1.33) if speed else rng.uniform(0.75, 1.25)
        one_speaker = rng.random() < 0.8
        if source == "cuts":
            speakers, one_speaker = self._cuts(one_speaker)
        speaker = pick(rng, list(speakers))
        pieces: list[Piece] = []
        budget = length - (int(rng.uniform(0, 0.3) * SAMPLE_RATE) if length > SAMPLE_RATE else 0)
        if rng.random() < 0.15:
            budget = int(budget * rng.uniform(0.15, 1))
        for _ in range(90):
            item = pick(rng, speakers[speaker])
            samples = self._clip(item, source)
            samples = augment.change_speed(samples, factor * rng.uniform(0.95, 1.05))
            pause = int(self._pause_s() * SAMPLE_RATE) if pieces else 0
            if pause + len(samples) > budget:
                if pieces or budget < 0.3 * SAMPLE_RATE:
                    break
                speaker = pick(rng, list(speakers))
                continue
            budget -= len(samples) + pause
            pieces.append((samples, item.words))
            if not one_speaker:
                speaker = pick(rng, list(speakers))
        if pieces and rng.random() < 0.5:
            needed = sum(len(samples) for samples, _ in pieces)
            needed += int(rng.uniform(0, 0.15) * len(pieces) * SAMPLE_RATE)
            length = min(max(needed, shortest), length)
        return self._lay_out(pieces, length)

    def _choose_voice(self, length: int) -> tuple[str, dict[str, list[Item]], bool]:
        """Return a source, its speakers' clips and whether to vary the speed widely."""
        words = self.material.words
        strings = self.material.strings if length > SAMPLE_RATE else {}
        choices = [
            (0.26 if length > SAMPLE_RATE else 0.6, "fsdd", words.get("fsdd"), True),
            (0.40, "cuts", words.get("cuts"), False),
            (0.13, "speechocean762", strings.get("speechocean762"), False),
            (0.08, "tts", words.get("tts"), False),
            (0.13, "tts", strings.get("tts"), False),
        ]
        present = [choice for choice in choices if choice[2]]
        weights = np.array([choice[0] for choice in present])
        picked = present[int(self.rng.choice(len(present), p=weights / weights.sum()))]
        assert picked[2] is not None
        return picked[1], picked[2], picked[3]

    def _cuts(self, one_speaker: bool) -> tuple[dict[str, list[Item]], bool]:
        """Return words cut from strings and sentences: of one speaker, or by word of anybody.

        Most people of whom there are cuts said nothing but "one".
        """
        if one_speaker and self.rng.random() < 0.5:
            return self._versatile, True
        return self._by_word, False

    def _pause_s(self) -> float:
        rng = self.rng
        draw = rng.random()
        if draw < 0.45:
            return float(rng.uniform(0, 0.12))
        return float(rng.uniform(0.1, 0.5) if draw < 0.8 else rng.uniform(0.5, 2.5))

    def _clip(self, item: Item, source: str) -> Wave:
        samples = item.store.samples(item.entry)
        if source == "speechocean762":
            whole = (samples * 32767).astype(np.int16)
            trimmed = trim(whole, 0.04, speech_level(whole))
            samples = np.asarray(trimmed, np.float32) / np.float32(32768)
        return augment.set_level(samples, 0.08 * 10 ** self.rng.uniform(-0.25, 0.25))

    def _lay_out(self, pieces: list[Piece], length: int) -> Utterance:
        """Place pieces in order in a silence of `length` samples, with pauses between them."""
        rng = self.rng
        slack = length - sum(len(samples) for samples, _ in pieces)
        gaps = np.array([self._pause_s() for _ in range(len(pieces) + 1)]) * SAMPLE_RATE
        gaps[0] *= rng.random() < 0.7
        gaps[-1] *= rng.random() < 0.7
        gaps *= min(1.0, slack / max(gaps.sum(), 1.0))
        gaps[pick(rng, (0, -1, int(rng.integers(len(gaps)))))] += slack - gaps.sum()
        sound = np.zeros(length, np.float32)
        spoken, position = [], 0
        for gap, (samples, words) in zip(gaps, pieces, strict=False):
            position += int(gap)
            end = min(position + len(samples), length)
            sound[position:end] += samples[: end - position]
            spoken.append(Spoken(position / SAMPLE_RATE, end / SAMPLE_RATE, words))
            position = end
        text = " ".join(word for item in spoken for word in item.words)
        return Utterance(sound, spoken, text, is_speech=bool(spoken), is_scored=True)


def degrade(utterance: Utterance, composer: Composer, strength: float) -> Wave:
    """Add a room, background noise, distortion and a noise floor; `strength` is how often."""
    rng, sound = composer.rng, utterance.samples
    if utterance.is_speech and rng.random() < 0.4 * strength:
        sound = augment.room(rng, sound)
    if utterance.is_speech and rng.random() < 0.65 * strength:
        snr_db = rng.uniform(0, 18) if rng.random() < 0.5 else rng.uniform(15, 40)
        sound = augment.add_noise(sound, composer.others.background(len(sound)), snr_db)
    if rng.random() < 0.08 * strength:
        sound = augment.distort(rng, sound)
    if rng.random() < 0.93:
        floor = np.float32(10 ** rng.uniform(-4.5, -2.3))
        if rng.random() < 0.5:
            hiss = rng.standard_normal(len(sound), dtype=np.float32)
        else:
            hiss = augment.set_level(composer.others.coloured(len(sound)), 1.0)
        sound = sound + floor * hiss
    gain = np.float32(10 ** rng.uniform(-2, 0.3))
    return np.asarray(np.clip(sound * gain, -1, 1), np.float32)
