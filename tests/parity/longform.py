"""What the long-form parity tests are about: checkpoints, a vocabulary, audio, and cases.

Knows nothing about Earshot, torch or the reference, as `recipes`: both sides make the same from it.

Windows are shorter than 30 s and decoders shorter than 448 tokens, so that a recording has many
windows and a test takes seconds. Timestamps are made rarer than chance would have them, because
there are hundreds of them and few words.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.parity.recipes import Array, Shape, openai_tensors, waveform

DATA = Path(__file__).parent / "data" / "longform.json.gz"

LADDER = (0.0, 1e-4, 2e-4)
"""Temperatures at which sampling is argmax, so that a fallback runs and is the same everywhere."""
LANGUAGES = ("en", "zh", "de", "es", "ru")
N_WORDS = 640
SECOND = 16_000


@dataclass(frozen=True)
class Checkpoint:
    """A random model: its dimensions, the seconds that it hears, and whether it knows languages."""

    shape: Shape
    seconds: float
    languages: tuple[str, ...] = ()

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


def _checkpoint(
    name: str, ctx: int, width: int, heads: int, layers: int, seconds: float, languages: int = 0
) -> Checkpoint:
    spoken = LANGUAGES[:languages]
    n_vocab = len(texts()) + len(specials(spoken)) + ctx + 1
    shape = Shape(
        name, 80, ctx, width, heads, layers, heads, layers, n_vocab, n_text_ctx=100, rows=1
    )
    return Checkpoint(shape, seconds, spoken)


def texts() -> list[bytes]:
    """Return the text tokens: bytes, then words with a blank before them."""
    consonants, vowels = "bdfgklmnprstvwxz", "aeiou"
    syllables = [c + v for c in consonants for v in vowels]
    words = [f" {syllables[i % 80]}{syllables[(i // 80 + 3 * i) % 80]}" for i in range(N_WORDS)]
    return [bytes([i]) for i in range(256)] + [
        f"{w}{i // 80}".encode() for i, w in enumerate(words)
    ]


def specials(languages: tuple[str, ...]) -> list[str]:
    """Return the special tokens, in the order of a multilingual vocabulary."""
    tasks = ("<|translate|>", "<|transcribe|>")
    rest = ("<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>")
    spoken = (f"<|{code}|>" for code in languages)
    return ["<|endoftext|>", "<|startoftranscript|>", *spoken, *tasks, *rest]


def timestamps(n_timestamps: int) -> list[str]:
    """Return the timestamp tokens."""
    return [f"<|{i * 0.02:.2f}|>" for i in range(n_timestamps)]


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
        place = n_texts + specials(checkpoint.languages).index(text)
        embedding[place] += np.float32(logit / _CONSTANT) * direction
    return found


_TEXT_SPREAD = 1.4
_CONSTANT = 60.0
_TIMESTAMP_MASS = 6.1
_OFFSETS = {"<|endoftext|>": 2.0, "<|nospeech|>": 4.0}


def audio(checkpoint: Checkpoint) -> Array:
    """Return what the model hears."""
    return waveform(checkpoint.shape.seed, 0, round(checkpoint.seconds * SECOND))


CHECKPOINTS = (
    _checkpoint("short-windows", 250, 64, 4, 2, 45),
    _checkpoint("wide", 500, 96, 6, 2, 45),
    _checkpoint("narrow", 450, 48, 3, 2, 45),
    _checkpoint("one-layer", 400, 64, 2, 1, 45),
    _checkpoint("three-layers", 500, 64, 4, 3, 45),
    _checkpoint("many-heads", 500, 80, 10, 2, 46),
    _checkpoint("five-languages", 450, 64, 4, 2, 47, languages=5),
    _checkpoint("two-languages", 500, 72, 4, 2, 48, languages=2),
    _checkpoint("long-windows", 750, 64, 4, 2, 60),
    _checkpoint("whole-windows", 1500, 48, 4, 1, 75),
    _checkpoint("uneven-windows", 433, 56, 4, 2, 46),
    _checkpoint("ten-minutes", 1500, 40, 4, 1, 600),
)


def _cases() -> list[Case]:
    """Return what is asked of each model: with conditioning, and without."""
    cases = []
    for conditions in (True, False):
        for place, checkpoint in enumerate(CHECKPOINTS):
            if checkpoint.seconds > 100 and not conditions:
                continue
            options = {"condition_on_previous_text": conditions, **_spoken(place)}
            name = f"{checkpoint.shape.name}/{'told' if conditions else 'alone'}"
            cases.append(Case(name, checkpoint, options))
    return cases


def _spoken(place: int) -> dict[str, object]:
    return {"language": "en"} if place % 2 else {}


CASES = _cases()
