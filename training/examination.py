"""The clips that a released model is scored on, and what each should give.

Everything random is seeded. Knows nothing about models.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training import augment
from training.augment import SAMPLE_RATE, Wave
from training.corpora import Clip, normalise, read_manifest
from training.split import load_split
from training.synthesis import read_audio

NOISE_SNR_DB = 10.0
JOINED_STRINGS, SHORTEST_STRING, LONGEST_STRING = 100, 3, 7
SYNTHETIC_CLIPS = 20


@dataclass(frozen=True, slots=True)
class Question:
    """One clip; `text` is empty where no digit is said."""

    part: str
    speaker: str
    samples: Wave
    text: str


def load(root: Path, clip: Clip) -> Wave:
    """Return a clip's audio, f32[n]."""
    return read_audio(root / clip.audio).astype(np.float32) / 32768.0


def test_clips(root: Path) -> list[Clip]:
    """Return every clip of the test part."""
    split = load_split()
    corpora = ["speechocean762", "fsdd", "noise_esc10"]
    if (root / "mixed_test.jsonl").exists():  # recordings from many places, see README.md
        corpora.insert(2, "mixed_test")
    clips = [clip for corpus in corpora for clip in read_manifest(root, corpus)]
    return [clip for clip in clips if split.part(clip) == "test"]


def digit_questions(root: Path, clips: list[Clip]) -> list[Question]:
    """Return the clips in which only digits are said."""
    return [
        Question(clip.corpus, clip.speaker, load(root, clip), normalise(clip.text))
        for clip in clips
        if clip.lang == "en" and clip.is_digits
    ]


def joined_questions(singles: list[Question]) -> list[Question]:
    """Return strings of 3 to 7 single digits, each clip at its own level, 0.1 to 0.4 s apart."""
    rng = np.random.default_rng(762)
    questions = []
    for _ in range(JOINED_STRINGS):
        count = int(rng.integers(SHORTEST_STRING, LONGEST_STRING + 1))
        chosen = [singles[int(rng.integers(len(singles)))] for _ in range(count)]
        pieces: list[Wave] = []
        for question in chosen:
            pause = np.zeros(int(rng.uniform(0.1, 0.4) * SAMPLE_RATE), np.float32)
            pieces += [pause, question.samples]
        samples = np.concatenate([*pieces, np.zeros(SAMPLE_RATE // 5, np.float32)])
        text = " ".join(question.text for question in chosen)
        questions.append(Question("fsdd joined", chosen[0].speaker, samples, text))
    return questions


def in_noise(root: Path, questions: list[Question], clips: list[Clip]) -> list[Question]:
    """Return the same clips with a held-out environmental sound at 10 dB."""
    rng = np.random.default_rng(10)
    noises = [load(root, clip) for clip in clips if clip.corpus == "noise_esc10"]
    noises = [noise for noise in noises if np.mean(noise**2) > 1e-8]
    noisy = []
    for question in questions:
        noise = np.roll(noises[int(rng.integers(len(noises)))], int(rng.integers(80_000)))
        noise = np.resize(noise, len(question.samples))
        samples = augment.add_noise(question.samples, noise, NOISE_SNR_DB)
        peak = max(1.0, float(np.abs(samples).max()))
        noisy.append(
            Question(question.part, question.speaker, samples / np.float32(peak), question.text)
        )
    return noisy


def other_questions(root: Path, clips: list[Clip]) -> list[Question]:
    """Return clips without digits: speech, other languages, sounds, tones, hiss and silence."""
    kinds = {"noise_esc10": "environmental sounds", "speechocean762": "English sentences"}
    questions = []
    for clip in clips:
        if not clip.is_clearly_not_digits or clip.is_digits:
            continue
        kind = kinds.get(clip.corpus, "other English" if clip.lang == "en" else "other languages")
        questions.append(Question(kind, clip.speaker, load(root, clip), ""))
    return questions + _synthetic()


def _synthetic() -> list[Question]:
    rng = np.random.default_rng(5)
    questions = []
    for index in range(SYNTHETIC_CLIPS):
        length = int(rng.uniform(0.5, 12) * SAMPLE_RATE)
        hiss = rng.standard_normal(length).astype(np.float32)
        made = {
            "tones": augment.tones(rng, length) * np.float32(0.1),
            "hiss": hiss * np.float32(10 ** rng.uniform(-4, -1)),
            "silence": np.zeros(length, np.float32) if index % 2 else hiss * np.float32(3e-5),
        }
        questions += [Question(kind, "", sound, "") for kind, sound in made.items()]
    return questions
