"""What the long-form parity tests are about: checkpoints, a vocabulary, audio, and cases.

Knows nothing about Earshot, torch or the reference, as `recipes`: both sides make the same from it.

Windows are shorter than 30 s and decoders shorter than 448 tokens, so that a recording has many
windows and a test takes seconds. Timestamps are made rarer than chance would have them, because
there are hundreds of them and few words.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.parity.recipes import Array, Shape, openai_tensors, waveform
from tests.parity.vocabulary import special_tokens

DATA = Path(__file__).parent / "data" / "longform.json.gz"

LADDER = (0.0, 1e-4, 2e-4)
"""Temperatures at which sampling is argmax, so that a fallback runs and is the same everywhere.

Not by definition: a token whose margin over the runner-up is m loses to it with odds of
exp(-m / T), which counts up to margins of about 1e-3. The reference's sampling is recorded, and the
recording fails where it is not argmax; a case then takes another seed.
"""
N_WORDS = 640
SECOND = 16_000


@dataclass(frozen=True)
class Checkpoint:
    """A random model, and what it hears.

    Attributes:
        shape: its dimensions.
        seconds: that are made up for it; 0 if it hears a recording.
        n_languages: that it knows; 0 for a model that knows English only.
        recording: in `recordings.RECORDINGS`, "" if what it hears is made up.
        shares: quantiles of compression ratio, mean log-probability and no-speech probability at
            which their thresholds lie: how many windows are decoded again.
    """

    shape: Shape
    seconds: float
    n_languages: int = 0
    recording: str = ""
    shares: tuple[float, float, float] = (0.6, 0.5, 0.75)

    @property
    def special(self) -> list[str]:
        """Its special tokens; one timestamp more than positions of a window."""
        return special_tokens(self.n_languages, self.n_timestamps)

    @property
    def n_timestamps(self) -> int:
        """One more than positions of a window."""
        return self.shape.n_audio_ctx + 1


@dataclass(frozen=True)
class Case:
    """One call of `transcribe()`: a checkpoint and options with the reference's names."""

    name: str
    checkpoint: Checkpoint
    options: dict[str, object] = field(default_factory=dict)

    @property
    def seed(self) -> int:
        """Of the sampling, on both sides."""
        return zlib.crc32(self.name.encode()) + _OTHER_SEEDS.get(self.name, 0)

    @property
    def has_timestamps(self) -> bool:
        """Whether its windows are cut by timestamps."""
        return not self.options.get("without_timestamps", False)


_OTHER_SEEDS = {"readers/told": 11}
"""Added to the seed of cases in which, on either side, a token with a narrow margin lost."""


def _checkpoint(
    name: str, ctx: int, width: int, heads: int, layers: int, seconds: float, n_languages: int = 0
) -> Checkpoint:
    n_vocab = len(texts()) + len(special_tokens(n_languages, ctx + 1))
    shape = Shape(
        name, 80, ctx, width, heads, layers, heads, layers, n_vocab, n_text_ctx=100, rows=1
    )
    return Checkpoint(shape, seconds, n_languages, "" if seconds else name)


CAUSES = ("repetition", "logprob", "silence")
"""Why a window is decoded again, or is not though its text is a guess."""


def causes_of(recorded: dict[str, Any]) -> Counter[str]:
    """Count the causes in the recording of a case."""
    causes: Counter[str] = Counter()
    limits = recorded["thresholds"]
    for one in recorded["decodings"]:
        guess = one["avg_logprob"] < limits["logprob_threshold"]
        if guess and one["no_speech_prob"] > limits["no_speech_threshold"]:
            causes["silence"] += 1
        elif one["compression_ratio"] > limits["compression_ratio_threshold"]:
            causes["repetition"] += 1
        elif guess:
            causes["logprob"] += 1
    return causes


def recorded() -> dict[str, Any]:
    """Return the recordings, by the name of the case."""
    found: dict[str, Any] = json.loads(gzip.decompress(DATA.read_bytes()))
    return found


def texts() -> list[bytes]:
    """Return the text tokens: bytes, then words with a blank before them."""
    consonants, vowels = "bdfgklmnprstvwxz", "aeiou"
    syllables = [c + v for c in consonants for v in vowels]
    words = [f" {syllables[i % 80]}{syllables[(i // 80 + 3 * i) % 80]}" for i in range(N_WORDS)]
    return [bytes([i]) for i in range(256)] + [
        f"{w}{i // 80}".encode() for i, w in enumerate(words)
    ]


def suppressed() -> list[int]:
    """Return the bytes that are no characters: never sampled, so that a text is one."""
    return [*range(32), *range(127, 256)]


def tensors(checkpoint: Checkpoint) -> dict[str, Array]:
    """Return the state of the model.

    One direction of the last norm's output is constant, and no token looks into it but those whose
    logit is to have an offset: timestamps and what ends a window.
    """
    shape = checkpoint.shape
    found = openai_tensors(shape)
    embedding = found["decoder.token_embedding.weight"]
    direction = np.zeros(shape.d_model, np.float32)
    direction[:: shape.d_model // 8] = 1
    direction /= np.linalg.norm(direction)
    embedding -= np.outer(embedding @ direction, direction).astype(np.float32)
    n_texts = len(texts())
    embedding[:n_texts] *= np.float32(_TEXT_SPREAD)
    found["decoder.ln.bias"] = found["decoder.ln.bias"] + np.float32(_CONSTANT) * direction
    offset = _TIMESTAMP_MASS - float(np.log(checkpoint.n_timestamps))
    embedding[-checkpoint.n_timestamps :] += np.float32(offset / _CONSTANT) * direction
    for text, logit in _OFFSETS.items():
        place = n_texts + checkpoint.special.index(text)
        embedding[place] += np.float32(logit / _CONSTANT) * direction
    return found


_TEXT_SPREAD = 1.4
_CONSTANT = 60.0
_TIMESTAMP_MASS = 6.1
_OFFSETS = {"<|endoftext|>": 2.0, "<|nospeech|>": 4.0}


def audio(checkpoint: Checkpoint) -> Array:
    """Return what is made up for the model to hear."""
    return waveform(checkpoint.shape.seed, 0, round(checkpoint.seconds * SECOND))


CHECKPOINTS = (
    _checkpoint("short-windows", 250, 64, 4, 2, 45),
    _checkpoint("wide", 500, 96, 6, 2, 45),
    _checkpoint("narrow", 450, 48, 3, 2, 45),
    _checkpoint("one-layer", 400, 64, 2, 1, 45),
    _checkpoint("three-layers", 500, 64, 4, 3, 45),
    _checkpoint("many-heads", 500, 128, 8, 2, 46),
    _checkpoint("five-languages", 450, 64, 4, 2, 47, n_languages=5),
    _checkpoint("two-languages", 500, 72, 3, 2, 48, n_languages=2),
    _checkpoint("long-windows", 750, 64, 4, 2, 60),
    _checkpoint("thirty-seconds", 1500, 48, 3, 1, 75),
    _checkpoint("uneven-windows", 433, 56, 2, 2, 46),
    replace(_checkpoint("ten-minutes", 1500, 48, 3, 1, 600), shares=(0.85, 0.15, 0.85)),
    _checkpoint("president", 500, 64, 4, 2, 0),
    _checkpoint("readers", 750, 80, 5, 2, 0),
)
_PROMPT = "gako4, ludi. Who said bemo2?"
_WORDS: dict[str, object] = {"word_timestamps": True}
_OTHER_OPTIONS: tuple[tuple[str, str, dict[str, object]], ...] = (
    ("short-windows", "words", _WORDS),
    ("five-languages", "words", _WORDS | {"language": "zh"}),
    ("readers", "words", _WORDS | {"condition_on_previous_text": False}),
    ("three-layers", "words, silence", _WORDS | {"hallucination_silence_threshold": 1.0}),
    ("wide", "beam 5, best of 5", {"beam_size": 5, "best_of": 5}),
    ("many-heads", "beam 2, patient", {"beam_size": 2, "patience": 2.0, "best_of": 3}),
    ("two-languages", "beam 5, penalty", {"beam_size": 5, "length_penalty": 0.6}),
    ("president", "beam 5, words", _WORDS | {"beam_size": 5, "best_of": 2}),
    ("one-layer", "best of 4", {"best_of": 4, "condition_on_previous_text": False}),
    ("narrow", "prompt", {"initial_prompt": _PROMPT}),
    ("uneven-windows", "prompt carried", {"initial_prompt": _PROMPT, "carry_initial_prompt": True}),
    ("readers", "prompt carried, words",
     _WORDS | {"initial_prompt": _PROMPT, "carry_initial_prompt": True}),
    ("long-windows", "clip", {"clip_timestamps": [7.5]}),
    ("thirty-seconds", "clips", {"clip_timestamps": [3.0, 20.52, 31.0, 70.0]}),
    ("one-layer", "text only", {"without_timestamps": True}),
    ("five-languages", "translated", {"task": "translate", "language": "de"}),
)  # fmt: skip


def _cases() -> list[Case]:
    """Return what is asked of each model: with conditioning, without, and other options."""
    cases = []
    for place, checkpoint in enumerate(CHECKPOINTS):
        spoken: dict[str, object] = {"language": "en"} if place % 2 else {}
        ways: dict[str, dict[str, object]] = {"told": {"condition_on_previous_text": True}}
        if checkpoint.seconds <= 100:
            ways["alone"] = {"condition_on_previous_text": False}
        name = checkpoint.shape.name
        ways |= {label: how for given, label, how in _OTHER_OPTIONS if given == name}
        cases += [Case(f"{name}/{label}", checkpoint, spoken | how) for label, how in ways.items()]
    return cases


CASES = _cases()
