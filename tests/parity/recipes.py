"""Random checkpoints and audio from seeds, lively enough that greedy decoding says something.

Knows nothing about Earshot, torch or the references: numpy only, so that the script that records
openai-whisper in another environment and the tests make the very same numbers.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

SAMPLES_PER_FRAME = 160
N_STEPS = 200
MIN_DISTINCT_TOKENS = 30
TIE_MARGIN = 1e-4
"""Two best logits of the reference closer than this make a divergence a tie."""


@dataclass(frozen=True)
class Shape:
    """Dimensions of a random checkpoint, and the audio rows that it is asked about.

    A feed-forward width of 0 means four times `d_model`, the only one that OpenAI's files have.
    """

    name: str
    n_mels: int
    n_audio_ctx: int
    d_model: int
    audio_head: int
    audio_layer: int
    text_head: int
    text_layer: int
    n_vocab: int
    audio_ffn: int = 0
    text_ffn: int = 0
    n_text_ctx: int = 448
    rows: int = 3

    @property
    def seed(self) -> int:
        """A number that belongs to the name."""
        return zlib.crc32(self.name.encode())

    @property
    def n_samples(self) -> int:
        """Samples of a full window."""
        return 2 * self.n_audio_ctx * SAMPLES_PER_FRAME


def lively(name: str, shape: tuple[int, ...], seed: int) -> Array:
    """Return a random tensor for the parameter of this name, in OpenAI's or Hugging Face's naming.

    Small token embeddings keep the tied head from repeating the last token; strong decoder
    positions and sharp attention keep it moving and listening.
    """
    noise = np.random.Generator(np.random.PCG64([seed, zlib.crc32(name.encode())]))
    draw = noise.standard_normal(shape, dtype=np.float32)
    if name in ("encoder.positional_embedding", "model.encoder.embed_positions.weight"):
        return sinusoids(*shape)
    if "token_embedding" in name or "embed_tokens" in name:
        return draw * np.float32(0.04)
    if "positional_embedding" in name or "embed_positions" in name:
        return draw * np.float32(3)
    if len(shape) == 1:
        normalises = name.endswith("weight")  # only layer norms have a weight with one axis
        last = name in ("decoder.ln.weight", "model.decoder.layer_norm.weight")
        scale = np.float32(5 if last else 1)  # gives the logits the spread of a real model's
        return scale * (draw * np.float32(0.1) + np.float32(normalises))
    fan_in = int(np.prod(shape[1:]))
    sharp = any(part in name for part in ("query", "key", "q_proj", "k_proj"))
    gain = (2.5 if "encoder." in name else 3.0) if sharp else 1.2
    return draw * np.float32(gain / np.sqrt(fan_in))


def sinusoids(length: int, channels: int) -> Array:
    """Return the encoder's positions, computed in float64."""
    increment = np.log(10_000.0) / (channels // 2 - 1)
    scaled = np.arange(length)[:, None] * np.exp(-increment * np.arange(channels // 2))[None, :]
    exact = np.concatenate([np.sin(scaled), np.cos(scaled)], axis=1)
    return exact.round(6).astype(np.float32)  # so that the last bit of libm does not show


def digest(tensors: Mapping[str, Array]) -> str:
    """Return a fingerprint of names and values."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        sha.update(name.encode())
        sha.update(np.ascontiguousarray(tensors[name]).tobytes())
    return sha.hexdigest()


def waveform(seed: int, row: int, n_samples: int) -> Array:
    """Return a second of this, a second of that: gliding tones, noise, pauses."""
    noise = np.random.Generator(np.random.PCG64([seed, row, 7]))
    seconds = np.arange(n_samples) / 16_000
    pitch = 100 + 300 * row + 200 * np.sin(2 * np.pi * (0.2 + 0.1 * row) * seconds)
    tone = np.sin(2 * np.pi * np.cumsum(pitch) / 16_000)
    envelope = np.repeat(noise.random(n_samples // 1600 + 1), 1600)[:n_samples]
    hiss = noise.standard_normal(n_samples) * np.roll(envelope, 800)
    return (0.5 * tone * envelope + 0.1 * hiss).astype(np.float32)


def openai_tensors(shape: Shape) -> dict[str, Array]:
    """Return the state of an OpenAI checkpoint of these dimensions."""
    names = openai_shapes(shape)
    return {name: lively(name, dims, shape.seed) for name, dims in names.items()}


def openai_dims(shape: Shape) -> dict[str, int]:
    """Return the `dims` of an OpenAI checkpoint."""
    return {
        "n_mels": shape.n_mels,
        "n_audio_ctx": shape.n_audio_ctx,
        "n_audio_state": shape.d_model,
        "n_audio_head": shape.audio_head,
        "n_audio_layer": shape.audio_layer,
        "n_vocab": shape.n_vocab,
        "n_text_ctx": shape.n_text_ctx,
        "n_text_state": shape.d_model,
        "n_text_head": shape.text_head,
        "n_text_layer": shape.text_layer,
    }


def openai_shapes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Return the name and shape of every tensor in an OpenAI checkpoint."""
    d_model = shape.d_model
    found: dict[str, tuple[int, ...]] = {
        "encoder.positional_embedding": (shape.n_audio_ctx, d_model),
        "encoder.conv1.weight": (d_model, shape.n_mels, 3),
        "encoder.conv1.bias": (d_model,),
        "encoder.conv2.weight": (d_model, d_model, 3),
        "encoder.conv2.bias": (d_model,),
        "decoder.token_embedding.weight": (shape.n_vocab, d_model),
        "decoder.positional_embedding": (shape.n_text_ctx, d_model),
    }
    found |= _norm("encoder.ln_post", d_model) | _norm("decoder.ln", d_model)
    for layer in range(shape.audio_layer):
        found |= _block(f"encoder.blocks.{layer}", d_model, ("attn",))
    for layer in range(shape.text_layer):
        found |= _block(f"decoder.blocks.{layer}", d_model, ("attn", "cross_attn"))
    return found


def _block(at: str, d_model: int, attentions: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for attention in attentions:
        for part in ("query", "key", "value", "out"):
            found[f"{at}.{attention}.{part}.weight"] = (d_model, d_model)
            if part != "key":
                found[f"{at}.{attention}.{part}.bias"] = (d_model,)
        found |= _norm(f"{at}.{attention}_ln", d_model)
    found |= {f"{at}.mlp.0.weight": (4 * d_model, d_model), f"{at}.mlp.0.bias": (4 * d_model,)}
    found |= {f"{at}.mlp.2.weight": (d_model, 4 * d_model), f"{at}.mlp.2.bias": (d_model,)}
    return found | _norm(f"{at}.mlp_ln", d_model)


def _norm(at: str, d_model: int) -> dict[str, tuple[int, ...]]:
    return {f"{at}.weight": (d_model,), f"{at}.bias": (d_model,)}
