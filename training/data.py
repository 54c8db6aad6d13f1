"""Composes training batches on the fly. Knows nothing about the model or the loss.

All items of a batch fill the same number of mel frames, up to the rounding that windows are served
with, so that no masks are needed: padding within the rounding is what the model meets in service.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from torch.nn import functional as F

from service.audio.mel import CONTEXT_SAMPLES, HOP_LENGTH, LogMelSpectrogram
from training import augment
from training.augment import N_MELS, SAMPLE_RATE, Wave
from training.phonemes import Lexicon
from training.material import Item, Material, is_negative
from training.synthesis import speech_level, trim
from training.targets import Spoken, TokenTargets, collate, token_targets

T = TypeVar("T")
ROUNDING_FRAMES = 64
EASY_STEPS, RAMP_STEPS = 2200, 4800
LESSONS = ((500, 128), (900, 192), (2600, 384), (5000, 640))
"""Until which step batches are at most so many frames long."""
MAX_FRAMES = 3000


@dataclass(frozen=True, slots=True)
class Utterance:
    """A composed waveform and what is in it; `text` is None where nobody knows it."""

    samples: Wave
    spoken: list[Spoken]
    text: str | None
    is_scored: bool
    """Whether the decoder learns from it: not from sentences that have digits among words."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Shapes: mel f32[b n_mels t]; inputs, labels i64[b s]; sounds i64[sum of lengths]."""

    mel: Tensor
    inputs: Tensor
    labels: Tensor
    sounds: Tensor
    sound_lengths: Tensor
    sound_rows: Tensor

    @property
    def seconds(self) -> float:
        """Audio in the batch, padding included."""
        return float(self.mel.shape[0] * self.mel.shape[2] / 100)


class Composer:
    """Draws utterances of a wanted length from the material."""

    def __init__(self, material: Material, rng: Generator) -> None:
        self.material = material
        self.rng = rng
        self.digit_share = 0.6
        seconds = 10 * SAMPLE_RATE
        self._colours = [augment.coloured_noise(rng, seconds) for _ in range(48)]
        self.negatives = {
            source: [item for item in items if is_negative(item)]
            for source, items in material.sentences.items()
        }
        self._lengths = {
            id(items): [item.entry.length for item in items]
            for table in (material.sentences, self.negatives)
            for items in table.values()
        }

    def utterance(self, length: int) -> Utterance:
        """Return `length` samples of digits, other speech or neither."""
        draw = self.rng.random()
        if draw < self.digit_share:
            return self.digits(length)
        return self.speech(length) if draw < 0.9 else self.no_speech(length)

    def digits(self, length: int) -> Utterance:
        """Join words and strings of digits with pauses."""
        rng = self.rng
        source, speakers, speed = self._choose_voice()
        factor = rng.uniform(0.75, 1.33) if speed else rng.uniform(0.85, 1.2)
        one_speaker = rng.random() < 0.8
        speaker = self._pick(list(speakers))
        pieces: list[tuple[Wave, tuple[str, ...]]] = []
        budget = length - int(rng.uniform(0, 0.3) * SAMPLE_RATE)
        if rng.random() < 0.15:
            budget = int(budget * rng.uniform(0.15, 1))
        for _ in range(90):
            item = self._pick(speakers[speaker])
            samples = self._clip(item, source)
            samples = augment.change_speed(samples, factor * rng.uniform(0.95, 1.05))
            pause = int(self._pause_s() * SAMPLE_RATE) if pieces else 0
            if pause + len(samples) > budget:
                if pieces or budget < 0.3 * SAMPLE_RATE:
                    break
                speaker = self._pick(list(speakers))
                continue
            budget -= len(samples) + pause
            pieces.append((samples, item.words))
            if not one_speaker:
                speaker = self._pick(list(speakers))
        return self._lay_out(pieces, length)

    def _choose_voice(self) -> tuple[str, dict[str, list[Item]], bool]:
        """Return a source, its speakers' clips and whether to vary the speed widely."""
        words, strings = self.material.words, self.material.strings
        choices = [
            (0.30, "fsdd", words.get("fsdd"), True),
            (0.27, "cuts", words.get("cuts"), False),
            (0.15, "speechocean762", strings.get("speechocean762"), False),
            (0.10, "tts", words.get("tts"), False),
            (0.18, "tts", strings.get("tts"), False),
        ]
        present = [choice for choice in choices if choice[2]]
        weights = np.array([choice[0] for choice in present])
        picked = present[int(self.rng.choice(len(present), p=weights / weights.sum()))]
        assert picked[2] is not None
        return picked[1], picked[2], picked[3]

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
            samples = trim(whole, 0.04, speech_level(whole)).astype(np.float32) / 32768
        return augment.set_level(samples, 0.08 * 10 ** self.rng.uniform(-0.25, 0.25))

    def _lay_out(self, pieces: list[tuple[Wave, tuple[str, ...]]], length: int) -> Utterance:
        """Place pieces in order in a silence of `length` samples, with pauses between them."""
        rng = self.rng
        slack = length - sum(len(samples) for samples, _ in pieces)
        gaps = np.array([self._pause_s() for _ in range(len(pieces) + 1)]) * SAMPLE_RATE
        gaps[0] *= rng.random() < 0.7
        gaps[-1] *= rng.random() < 0.7
        gaps *= min(1.0, slack / max(gaps.sum(), 1.0))
        gaps[rng.choice([0, -1, rng.integers(len(gaps))])] += slack - gaps.sum()
        sound = np.zeros(length, np.float32)
        spoken, position = [], 0
        for gap, (samples, words) in zip(gaps, pieces, strict=False):
            position += int(gap)
            end = min(position + len(samples), length)
            sound[position:end] += samples[: end - position]
            spoken.append(Spoken(position / SAMPLE_RATE, end / SAMPLE_RATE, words))
            position = end
        text = " ".join(word for item in spoken for word in item.words)
        return Utterance(sound, spoken, text, is_scored=True)

    def speech(self, length: int) -> Utterance:
        """Return sentences, or a part of one where a whole one does not fit."""
        rng = self.rng
        draw = rng.random()
        table = self.negatives if rng.random() < 0.75 else self.material.sentences
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
            scored &= table is self.negatives or is_negative(item)
        if not texts:
            return Utterance(self._excerpt(length), [], None, is_scored=True)
        return Utterance(sound, [], " ".join(texts), scored)

    def _excerpt(self, length: int) -> Wave:
        """Return some of a sentence that has no digits in it."""
        rng = self.rng
        items = self.negatives["speechocean762" if rng.random() < 0.7 else "tts"]
        item = self._pick(items)
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
        return Utterance(sound, [], "", is_scored=True)

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
        clip = self._pick(self._colours)
        clip = np.tile(clip, -(-length // len(clip)) + 1)
        start = int(self.rng.integers(len(clip) - length + 1))
        return clip[start : start + length]

    def _recorded_noise(self, length: int) -> Wave:
        rng = self.rng
        item = self._pick(self.material.noises)
        clip = augment.change_speed(item.store.samples(item.entry), rng.uniform(0.7, 1.4))
        clip = np.tile(clip, -(-length // len(clip)) + 1)
        start = int(rng.integers(len(clip) - length + 1))
        return augment.set_level(clip[start : start + length], 0.06)

    def babble(self, length: int) -> Wave:
        """Return several people talking at once, none of them saying digits."""
        return np.sum([self._excerpt(length) for _ in range(self.rng.integers(2, 6))], axis=0)

    def background(self, length: int) -> Wave:
        """Return what is to be heard behind speech."""
        return self.babble(length) if self.rng.random() < 0.15 else self.noise(length)

    def _pick(self, items: Sequence[T]) -> T:
        return items[int(self.rng.integers(len(items)))]


def degrade(utterance: Utterance, composer: Composer, strength: float) -> Wave:
    """Add a room, background noise, distortion and a noise floor; `strength` is how often."""
    rng, sound = composer.rng, utterance.samples
    has_speech = bool(utterance.text) or bool(utterance.spoken)
    if has_speech and rng.random() < 0.4 * strength:
        sound = augment.room(rng, sound)
    if has_speech and rng.random() < 0.65 * strength:
        snr_db = rng.uniform(0, 18) if rng.random() < 0.5 else rng.uniform(15, 40)
        sound = augment.add_noise(sound, composer.background(len(sound)), snr_db)
    if rng.random() < 0.08 * strength:
        sound = augment.distort(rng, sound)
    if rng.random() < 0.93:
        floor = np.float32(10 ** rng.uniform(-4.5, -2.3))
        if rng.random() < 0.5:
            hiss = rng.standard_normal(len(sound), dtype=np.float32)
        else:
            hiss = augment.set_level(composer.coloured(len(sound)), 1.0)
        sound = sound + floor * hiss
    gain = np.float32(10 ** rng.uniform(-2, 0.3))
    return np.clip(sound * gain, -1, 1).astype(np.float32)


def strength_at(step: int) -> float:
    """Return how strong augmentation is: a model that has learnt nothing needs easy examples."""
    return float(np.clip((step - EASY_STEPS) / RAMP_STEPS, 0.15, 1))


def choose_frames(rng: random.Random, step: int) -> int:
    """Return the frames of a batch: mostly 1.5 to 8 s, some shorter, a few up to 30 s.

    It begins with single words, from which a model learns to listen within minutes, and takes
    several times as long otherwise.
    """
    draw = rng.random()
    longest = next((frames for until, frames in LESSONS if step < until), MAX_FRAMES)
    if longest < MAX_FRAMES:
        frames = rng.uniform(64, longest)
    elif draw < 0.12:
        frames = rng.uniform(64, 128)
    elif draw < 0.85:
        frames = rng.uniform(128, 768)
    elif draw < 0.965:
        frames = rng.uniform(768, 1536)
    else:
        frames = rng.uniform(1536, 3060)
    return min(-(-int(frames) // ROUNDING_FRAMES) * ROUNDING_FRAMES, MAX_FRAMES)


def choose_prompt(rng: random.Random) -> int:
    """Return how many tokens of previous text the items of a batch may carry."""
    return round(float(np.exp(rng.uniform(0.7, 5.4)))) if rng.random() < 0.2 else 0


class Spectrogram:
    """Waveforms of one bucket to augmented, normalised log-mels, as the service makes them."""

    def __init__(self) -> None:
        self._mel = LogMelSpectrogram(N_MELS)

    def __call__(
        self, sounds: list[Wave], frames: int, rng: Generator | None, strength: float = 1
    ) -> Tensor:
        """Return f32[b n_mels frames]; without `rng`, nothing is augmented."""
        size = frames * HOP_LENGTH + 2 * CONTEXT_SAMPLES
        batch = torch.zeros(len(sounds), size)
        for row, sound in enumerate(sounds):
            wave = torch.from_numpy(sound)[None]
            wave = F.pad(wave, (CONTEXT_SAMPLES, 0), mode="reflect")[0]
            batch[row, : len(wave)] = wave[:size]
        lengths = [min(len(sound) // HOP_LENGTH, frames) for sound in sounds]
        log_power = self._mel.log_power(batch)
        inside = torch.arange(frames) < torch.tensor(lengths)[:, None]  # [b t]
        if rng is not None:
            log_power = self._augment(log_power, rng, strength)
        maximum = log_power.masked_fill(~inside[:, None], -10).amax(dim=(-2, -1), keepdim=True)
        if rng is not None:
            louder = rng.uniform(0, 1.5, len(sounds)) * (rng.random(len(sounds)) < 0.15)
            maximum = maximum + torch.from_numpy(louder).float()[:, None, None]
        mel = self._mel.normalise(log_power, maximum)
        if rng is not None and rng.random() < strength:
            augment.mask_spectrogram(rng, mel, lengths)
        return mel * inside[:, None]

    @staticmethod
    def _augment(log_power: Tensor, rng: Generator, strength: float) -> Tensor:
        count = len(log_power)
        factors = np.exp(rng.normal(0, 0.1, count).clip(-0.22, 0.22)) ** (rng.random(count) < 0.8)
        warped = augment.warp_matrices(torch.from_numpy(factors).float()) @ log_power
        curves = augment.microphone_curves(rng, count)
        return torch.where(torch.rand(count, 1, 1) < 0.85 * strength, warped + curves, warped).clamp(min=-10)


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
        self.composer.rng = rng
        self.composer.digit_share = 0.6 if step >= LESSONS[-2][0] else 0.75
        count = max(2, min(self.frames_per_batch // frames, 48))
        utterances, sounds = [], []
        for _ in range(count):
            length = frames * HOP_LENGTH - int(rng.integers(ROUNDING_FRAMES * HOP_LENGTH))
            utterances.append(self.composer.utterance(max(length, HOP_LENGTH * 12)))
            sounds.append(degrade(utterances[-1], self.composer, strength))
        mel = self._spectrogram(sounds, frames, rng, strength)
        chooser = random.Random(int(rng.integers(2**31)))
        inputs, labels = collate([_targets(u, chooser, prompt) for u in utterances])
        return Batch(mel, inputs, labels, *self._sounds(utterances))


    def _sounds(self, utterances: list[Utterance]) -> tuple[Tensor, Tensor, Tensor]:
        rows = [row for row, item in enumerate(utterances) if item.text is not None]
        spoken = [self._lexicon.text(utterances[row].text or "") for row in rows]
        flat = [sound for sounds in spoken for sound in sounds]
        lengths = [len(sounds) for sounds in spoken]
        return torch.tensor(flat), torch.tensor(lengths), torch.tensor(rows)


def _targets(utterance: Utterance, rng: random.Random, prompt: int) -> TokenTargets:
    length = rng.randint(0, prompt) if prompt else 0
    made = token_targets(
        utterance.spoken, rng, timestamps=rng.random() < 0.6, prompt_tokens=length
    )
    return made if utterance.is_scored else TokenTargets(made.inputs, [-1] * len(made.labels))


