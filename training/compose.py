"""Joins words and strings of digits into sequences, and makes them sound like the world.

Knows nothing about batches or the model.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from training import augment
from training.augment import SAMPLE_RATE, Wave
from training.corpora import DIGITS
from training.labels import FRAME_SAMPLES, SILENT, Labels
from training.material import Item, Material, pick
from training.mosaic import Mosaics
from training.others import OtherSounds, Utterance
from training.targets import Spoken

SOURCES = (
    # source, share of short and of longer utterances, slowest and fastest
    ("fsdd", 0.14, 0.08, (0.75, 1.33)),
    ("cuts", 0.22, 0.20, (0.78, 1.25)),
    ("mosaic", 0.06, 0.16, (0.78, 1.25)),
    ("tts", 0.06, 0.05, (0.8, 1.25)),
    ("voices", 0.16, 0.12, (0.75, 1.3)),
    ("strings", 0.0, 0.22, (0.75, 1.3)),
    ("tts strings", 0.0, 0.12, (0.8, 1.25)),
    ("strangers", 0.36, 0.20, (0.75, 1.3)),
)
"""What is not there leaves its share to the others."""
SHORT = SAMPLE_RATE
"""Samples up to which an utterance is made of single words."""
DIGIT_SHARE, SHORT_DIGIT_SHARE = 0.46, 0.75
"""How many utterances are digits; of short ones more, for a word by itself is seldom another."""
SALAD = 0.4
"""How much of the speech without digits is words of sentences, joined as digits are.

People who read haltingly sound like somebody who reads digits, if only digits come with pauses.
"""
CLIPPED, CLIPPED_FRAMES, CLIPPABLE_FRAMES = 0.25, 4, 24
"""How often a recording begins or ends within its word, by how much at most, and how long it is."""
TRIMMED, TRIM_DB, SHORTEST_FRAMES = 0.4, (10.0, 32.0), 8
"""How often a word is trimmed at a level as whoever cuts up recordings does it, how far under its
loudest part, and how much is left at least."""
NARROW = 0.35
"""How often everything is limited to about 4 kHz, as telephones and old recorders do."""
REPEATED = 0.2
"""How often a speaker says a word once more, which is easily taken for one."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Something to be joined: its words, each with its first and last frame."""

    samples: Wave
    labels: Labels
    words: list[tuple[str, int, int]]

    @classmethod
    def of(cls, item: Item) -> Piece:
        """Return a clip as it is; a single word lasts as long as its clip."""
        words = [(item.entry.text, 0, len(item.labels.tags))]
        if len(item.words) > 1 and item.alignment:
            words = [(word, first, first + n) for word, first, n in item.alignment.words]
        return cls(item.samples, item.labels, words)

    def at_speed(self, factor: float) -> Piece:
        """Return it played `factor` times as fast."""
        samples = augment.change_speed(self.samples, factor)
        words = [(word, int(a / factor), int(b / factor)) for word, a, b in self.words]
        return Piece(samples, self.labels.at_speed(factor, len(samples)), words)

    def clipped(self, first: int, last: int) -> Piece:
        """Return it without its first and last frames, which must not be many."""
        frames = len(self.labels.tags)
        end = len(self.samples) - last * FRAME_SAMPLES
        words = [
            (word, max(a - first, 0), min(b, frames - last) - first) for word, a, b in self.words
        ]
        labels = self.labels.part(first, frames - last)
        return Piece(self.samples[first * FRAME_SAMPLES : end], labels, words)

    def trimmed(self, drop_db: float) -> Piece:
        """Return it from the first to the last frame that is at most so far under the loudest."""
        levels = augment.telephone_levels(self.samples)
        loud = np.flatnonzero(levels > -drop_db)
        first, last = int(loud[0]), len(levels) - 1 - int(loud[-1])
        spare = max(len(levels) - SHORTEST_FRAMES, 0)
        first = min(first, spare)
        return self.clipped(first, min(last, spare - first))


class Composer:
    """Draws utterances of a wanted length from the material."""

    def __init__(self, material: Material, rng: Generator) -> None:
        self.material = material
        self.rng = rng
        self.others = OtherSounds(material, rng)
        recorded = ("speechocean762", "ljspeech")
        strings = {
            source: {
                speaker: [item for item in items if item.alignment]
                for speaker, items in by_speaker.items()
            }
            for source, by_speaker in material.strings.items()
        }
        self._voices: dict[str, dict[str, list[Item]]] = {
            "fsdd": material.words.get("fsdd", {}),
            "cuts": material.words.get("cuts", {}),
            "tts": material.words.get("tts", {}),
            "voices": material.words.get("voices", {}),
            "strangers": material.words.get("strangers", {}),
            "others": material.words.get("others", {}),
            "strings": _some(strings.get("speechocean762", {})),
            "tts strings": _some(strings.get("tts", {})) | _some(strings.get("voices", {})),
        }
        sentences = [item for name in recorded for item in material.sentences.get(name, [])]
        self._mosaics = Mosaics(sentences)
        cuts = self._voices["cuts"]
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
        digits = SHORT_DIGIT_SHARE if length <= SHORT else DIGIT_SHARE
        if draw < digits:
            return self.digits(shortest, length)
        speech = digits + 0.76 * (1 - digits)
        if draw >= speech:
            return self.others.no_speech(length)
        if self._voices["others"] and self.rng.random() < SALAD:
            return self.joined(shortest, length, "others", (0.78, 1.25))
        return self.others.speech(length)

    def digits(self, shortest: int, length: int) -> Utterance:
        """Join words and strings of digits."""
        return self.joined(shortest, length, *self._choose_source(length))

    def joined(
        self, shortest: int, length: int, source: str, speeds: tuple[float, float]
    ) -> Utterance:
        """Join words from a source with pauses; some utterances end with the last word."""
        rng = self.rng
        slowest, fastest = speeds
        factor = rng.uniform(slowest, fastest)
        one_speaker = rng.random() < 0.8
        voices = self._by_word if source == "cuts" else self._voices.get(source, {})
        if source == "cuts":
            one_speaker = one_speaker and bool(self._versatile) and rng.random() < 0.5
            voices = self._versatile if one_speaker else voices
        names = self._mosaics.speakers if source == "mosaic" else list(voices)
        speaker = pick(rng, names)
        pieces: list[Piece] = []
        budget = length - (int(rng.uniform(0, 0.3) * SAMPLE_RATE) if length > SHORT else 0)
        if rng.random() < 0.15:
            budget = int(budget * rng.uniform(0.15, 1))
        for _ in range(90):
            again = pieces and one_speaker and rng.random() < REPEATED
            word = pieces[-1].words[-1][0] if again else None
            piece = self._piece(source, speaker, voices, word)
            piece = piece.at_speed(factor * rng.uniform(0.95, 1.05))
            pause = int(max(self._pause_s(), 0) * SAMPLE_RATE) if pieces else 0
            if pause + len(piece.samples) > budget:
                if pieces or budget < 0.3 * SAMPLE_RATE:
                    break
                speaker = pick(rng, names)
                continue
            budget -= len(piece.samples) + pause
            pieces.append(piece)
            if not one_speaker:
                speaker = pick(rng, names)
        if pieces and rng.random() < 0.5:
            needed = sum(len(piece.samples) for piece in pieces)
            needed += int(rng.uniform(0, 0.15) * len(pieces) * SAMPLE_RATE)
            length = min(max(needed, shortest), length)
        return self._lay_out(pieces, length)

    def _choose_source(self, length: int) -> tuple[str, tuple[float, float]]:
        """Return where words come from and how much their speed varies."""
        present = [
            source
            for source in SOURCES
            if self._voices.get(source[0]) or (source[0] == "mosaic" and self._mosaics.speakers)
        ]
        weights = np.array([source[1 if length <= SHORT else 2] for source in present])
        picked = present[int(self.rng.choice(len(present), p=weights / weights.sum()))]
        return picked[0], picked[3]

    def _piece(
        self, source: str, speaker: str, voices: dict[str, list[Item]], wanted: str | None
    ) -> Piece:
        """Return something that the speaker said, the wanted word if it is to be had."""
        rng = self.rng
        if source == "mosaic":
            samples, labels, word = self._mosaics.word(rng, speaker, wanted)
            piece = Piece(samples, labels, [(word, 0, len(labels.tags))])
        else:
            same = [item for item in voices[speaker] if item.entry.text == wanted]
            piece = Piece.of(pick(rng, same or voices[speaker]))
        if len(piece.words) == 1 and rng.random() < TRIMMED:
            piece = piece.trimmed(rng.uniform(*TRIM_DB))
        if rng.random() < CLIPPED and len(piece.labels.tags) >= CLIPPABLE_FRAMES:
            first, last = (int(frames) for frames in rng.integers(0, CLIPPED_FRAMES + 1, 2))
            piece = piece.clipped(first, last)
        level = 0.08 * 10 ** rng.uniform(-0.25, 0.25)
        return Piece(augment.set_level(piece.samples, level), piece.labels, piece.words)

    def _pause_s(self) -> float:
        rng = self.rng
        draw = rng.random()
        if draw < 0.45:
            return float(rng.uniform(-0.05, 0.1))  # people run words together
        return float(rng.uniform(0.1, 0.5) if draw < 0.8 else rng.uniform(0.5, 2.5))

    def _lay_out(self, pieces: list[Piece], length: int) -> Utterance:
        """Place pieces in order in a silence of `length` samples, with pauses between them."""
        rng = self.rng
        slack = length - sum(len(piece.samples) for piece in pieces)
        gaps = np.array([self._pause_s() for _ in range(len(pieces) + 1)]) * SAMPLE_RATE
        gaps[0] *= rng.random() < 0.7
        gaps[-1] *= rng.random() < 0.7
        gaps[[0, -1]] = gaps[[0, -1]].clip(min=0)
        gaps *= min(1.0, slack / max(gaps.sum(), 1.0))
        gaps[pick(rng, (0, -1, int(rng.integers(len(gaps)))))] += slack - gaps.sum()
        sound, labels = np.zeros(length, np.float32), Labels.filled(length, 0, SILENT)
        spoken, position = [], 0
        for gap, piece in zip(gaps, pieces, strict=False):
            position += int(gap)
            end = min(position + len(piece.samples), length)
            sound[position:end] += piece.samples[: end - position]
            labels.place(piece.labels, position)
            for word, first, last in piece.words:
                if word not in DIGITS:
                    continue
                start_s = position / SAMPLE_RATE + first * FRAME_SAMPLES / SAMPLE_RATE
                end_s = position / SAMPLE_RATE + last * FRAME_SAMPLES / SAMPLE_RATE
                spoken.append(Spoken(start_s, min(end_s, end / SAMPLE_RATE), (word,)))
            position = end
        return Utterance(sound, spoken, labels, is_speech=bool(pieces), is_scored=True)


def _some(voices: dict[str, list[Item]]) -> dict[str, list[Item]]:
    return {speaker: items for speaker, items in voices.items() if items}


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
    if rng.random() < NARROW:
        sound = augment.narrow(rng, sound)
    gain = np.float32(10 ** rng.uniform(-2, 0.3))
    coarse = np.round(np.clip(sound * gain, -1, 1) * 32767)  # 16 bits, of which a whisper uses few
    return np.asarray(coarse / 32767, np.float32)
