"""Checkpoints that talk in timestamps, and ways to decode them. Numpy only, as `recipes`."""

from __future__ import annotations

import gzip
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.parity.recipes import Array, Shape, openai_tensors
from tests.parity.vocabulary import LANGUAGES, n_text_of, special_tokens

FILE = Path(__file__).parent / "data" / "decoding.json.gz"
N_LANGUAGES = len(LANGUAGES)
MIN_TIMESTAMPS = 3
SAMPLE_LEN = 80
LONG_LEN = 120
DRAWN_TEMPERATURES = (0.5, 1.0)
"""At which the distribution of drawn tokens is compared."""

# name, mels, audio ctx, d_model, audio heads and layers, text heads and layers, vocabulary
TALKATIVE = (
    Shape("talk-a", 80, 200, 96, 6, 2, 6, 3, 3000, rows=2),
    Shape("talk-b", 80, 160, 64, 4, 2, 4, 4, 2600, rows=2),
    Shape("talk-cy", 128, 120, 80, 5, 3, 5, 2, 2400, rows=2),
    Shape("talk-e", 80, 240, 120, 5, 2, 5, 2, 2800, rows=2),
    Shape("talk-f3x", 80, 180, 72, 3, 2, 3, 3, 2500, rows=2),
    Shape("talk-gx", 128, 200, 96, 3, 1, 3, 2, 2700, rows=2),
    Shape("talk-hy", 80, 150, 128, 8, 2, 8, 2, 3200, rows=2),
    Shape("talk-i2z", 80, 260, 80, 2, 3, 2, 3, 2300, rows=2),
    Shape("talk-j", 128, 140, 100, 5, 2, 5, 4, 2900, rows=2),
    Shape("talk-k1z", 80, 190, 64, 1, 2, 1, 3, 2450, rows=2),
    Shape("talk-l4", 80, 300, 64, 8, 2, 4, 5, 2650, rows=2),
    Shape("talk-m", 80, 1500, 64, 4, 1, 4, 2, 2550, rows=2),
)

_END = {
    "talk-a": 1.2, "talk-cy": 0.8, "talk-e": 1.2, "talk-f3x": 0.4, "talk-hy": 0.4, "talk-i2z": 0.4,
    "talk-j": 0.8, "talk-k1z": 0.4, "talk-l4": 0.4,
}  # fmt: skip
"""By how much the logit of end-of-text is raised, so that windows end, and not at once."""


@dataclass(frozen=True)
class Case:
    """One way to decode a window: `whisper.DecodingOptions`, prompt and prefix as tokens."""

    name: str
    row: int
    options: dict[str, Any]


def recorded_decodings() -> dict[str, Any]:
    """Return the recordings, by the name of the checkpoint."""
    found: dict[str, Any] = json.loads(gzip.decompress(FILE.read_bytes()))
    return found


def drawn_options() -> dict[str, Any]:
    """Return how a window is decoded whose second token is drawn: the first is <|0.00|>."""
    return {"language": "en", "suppress_tokens": "", "max_initial_timestamp": 1e-3}


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
    # Exact before it is rounded: processors do not agree on the last bit of a sum in float32.
    along = bias / np.float32(math.fsum(float(value) ** 2 for value in bias))
    embedding[begin:] *= np.float32(0.7)
    embedding[begin:] -= np.float32(3.0) * along
    embedding[eot] *= np.float32(1.25)
    embedding[eot] += np.float32(_END.get(shape.name, 0.0)) * along
    return tensors


def cases(shape: Shape) -> list[Case]:
    """Return the ways in which a checkpoint's windows are decoded: a third of all variants."""
    n_text = n_text_of(shape.n_vocab, N_LANGUAGES)
    prompt = [(37 * i + 300) % n_text for i in range(60)]
    plain: dict[str, Any] = {"language": "en", "suppress_tokens": "", "sample_len": SAMPLE_LEN}
    turn = [other.name for other in TALKATIVE].index(shape.name) % 3
    always = [("greedy", {}), ("beam 5", {"beam_size": 5})]
    chosen = [*always, *_greedy_variants(prompt)[turn::3], *_beam_variants(prompt)[turn::3]]
    rows = list(range(shape.rows))
    return [
        Case(f"{name}, row {row}", row, plain | how)
        for number, (name, how) in enumerate(chosen)
        for row in (rows if name == "greedy" else [rows[number % len(rows)]])
    ]


def _greedy_variants(prompt: list[int]) -> list[tuple[str, dict[str, Any]]]:
    return [
        ("non-speech", {"suppress_tokens": "-1", "language": "de", "task": "translate"}),
        ("prompt", {"prompt": prompt}),
        ("text", {"without_timestamps": True}),
        ("late start", {"max_initial_timestamp": None}),
        ("listed", {"suppress_tokens": [*range(300, 600)], "suppress_blank": False}),
        ("prefix", {"prefix": prompt[:7], "prompt": prompt[7:20]}),
        ("text after prefix", {"without_timestamps": True, "prefix": prompt[30:40]}),
        ("long prompt", {"prompt": prompt * 4, "suppress_tokens": "-1", "language": "zh"}),
        ("long", {"sample_len": LONG_LEN}),
    ]


def _beam_variants(prompt: list[int]) -> list[tuple[str, dict[str, Any]]]:
    long = {"sample_len": LONG_LEN, "prompt": prompt * 4}
    return [
        ("beam 2", {"beam_size": 2}),
        ("beam 5 patient", {"beam_size": 5, "patience": 2.0}),
        ("beam 2 penalty", {"beam_size": 2, "length_penalty": 0.6, "prefix": prompt[:5]}),
        ("beam 2 patient", {"beam_size": 2, "patience": 2.0}),
        ("beam 5 penalty", {"beam_size": 5, "length_penalty": 1.0, "prompt": prompt}),
        ("beam 3 text", {"beam_size": 3, "without_timestamps": True, "suppress_tokens": "-1"}),
        ("beam 5 both", {"beam_size": 5, "patience": 1.6, "length_penalty": 0.8}),
        ("beam 2 impatient", {"beam_size": 2, "patience": 0.5, "length_penalty": 0.4}),
        ("beam 2 long", {"beam_size": 2, "patience": 2.0} | long),
    ]
