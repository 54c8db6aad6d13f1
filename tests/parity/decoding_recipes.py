"""Checkpoints that talk in timestamps, and ways to decode them. Numpy only, as `recipes`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.parity.recipes import Array, Shape, openai_tensors
from tests.parity.vocabulary import LANGUAGES, n_text_of, special_tokens

N_LANGUAGES = len(LANGUAGES)
MIN_TIMESTAMPS = 3
SAMPLE_LEN = 48
LONG_LEN = 120

# name, mels, audio ctx, d_model, audio heads and layers, text heads and layers, vocabulary
TALKATIVE = (
    Shape("talk-a", 80, 200, 96, 6, 2, 6, 3, 3000, rows=2),
    Shape("talk-b", 80, 160, 64, 4, 2, 4, 4, 2600, rows=2),
    Shape("talk-c", 128, 120, 80, 5, 3, 5, 2, 2400, rows=2),
    Shape("talk-e", 80, 240, 120, 5, 2, 5, 2, 2800, rows=2),
)


@dataclass(frozen=True)
class Case:
    """One way to decode a window: `whisper.DecodingOptions`, prompt and prefix as tokens."""

    name: str
    row: int
    options: dict[str, Any]


def talkative_tensors(shape: Shape) -> dict[str, Array]:
    """Return a checkpoint in which timestamps and end-of-text come now and then.

    Random logits would say timestamps all the time, because there are so many: their rows of the
    head are small, and lowered along the final bias, which is the same in every step.
    """
    tensors = openai_tensors(shape)
    embedding = tensors["decoder.token_embedding.weight"]
    bias = tensors["decoder.ln.bias"]
    eot = n_text_of(shape.n_vocab, N_LANGUAGES)
    begin = eot + special_tokens(N_LANGUAGES).index("<|0.00|>")
    along = bias / np.float32(bias @ bias)
    embedding[begin:] *= np.float32(0.7)
    embedding[begin:] -= np.float32(3.0) * along
    embedding[eot] *= np.float32(1.25)
    return tensors


def cases(shape: Shape) -> list[Case]:
    """Return the ways in which a checkpoint's windows are decoded: every other variant."""
    rows = list(range(shape.rows))
    n_text = n_text_of(shape.n_vocab, N_LANGUAGES)
    prompt = [(37 * i + 300) % n_text for i in range(60)]
    plain: dict[str, Any] = {"language": "en", "suppress_tokens": "", "sample_len": SAMPLE_LEN}
    variants: list[tuple[str, dict[str, Any]]] = [
        ("non-speech", {"suppress_tokens": "-1", "language": "de", "task": "translate"}),
        ("listed", {"suppress_tokens": [*range(300, 600)], "suppress_blank": False}),
        ("text", {"without_timestamps": True}),
        ("late start", {"max_initial_timestamp": None}),
        ("prompt", {"prompt": prompt}),
        ("prefix", {"prefix": prompt[:7], "prompt": prompt[7:20]}),
        ("beam 2", {"beam_size": 2}),
        ("beam 5 patient", {"beam_size": 5, "patience": 2.0}),
        ("beam 2 impatient", {"beam_size": 2, "patience": 0.5, "length_penalty": 0.4}),
        ("beam 5 penalty", {"beam_size": 5, "length_penalty": 1.0, "prompt": prompt}),
        ("beam 3 text", {"beam_size": 3, "without_timestamps": True, "suppress_tokens": "-1"}),
        ("long beam 2", {"beam_size": 2, "sample_len": LONG_LEN, "prompt": prompt * 4}),
    ]
    always = [("greedy", {}), ("beam 5", {"beam_size": 5})]
    turn = shape.seed % 2
    chosen = [*always, *variants[turn::2]]
    return [
        Case(f"{name}, row {row}", row, plain | how)
        for number, (name, how) in enumerate(chosen)
        for row in (rows if name == "greedy" else [rows[number % len(rows)]])
    ]
