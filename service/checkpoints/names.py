"""One table of parameter names: ours, Hugging Face's, OpenAI's. Knows nothing about files.

Ours fuse query, key and value into one linear, and key and value of the cross-attention into
another. Whisper's key projection has no bias, so that part of a fused bias has no source: zeros.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass

from service.model.config import WhisperConfig
from service.model.empty import empty_model


class Naming(enum.Enum):
    """Whose names a file uses."""

    HF = "hf"
    OPENAI = "openai"


@dataclass(frozen=True, slots=True)
class ParameterNames:
    """One of our parameters and the tensors that make it, concatenated along their first axis.

    None in the place of a name means zeros. `hf` and `openai` are equally long.
    """

    ours: str
    hf: tuple[str | None, ...]
    openai: tuple[str | None, ...]

    def sources(self, naming: Naming) -> tuple[str | None, ...]:
        """Return the names that make this parameter in one kind of file."""
        return self.hf if naming is Naming.HF else self.openai


HF_HEAD = "proj_out.weight"
"""Hugging Face's LM head, which may stand in the file even where it is the token embedding."""
HF_EMBEDDING = "model.decoder.embed_tokens.weight"

_TENSORS = (  # OpenAI's name is ours
    ("encoder.positional_embedding", "encoder.embed_positions.weight"),
    ("decoder.token_embedding.weight", "decoder.embed_tokens.weight"),
    ("decoder.positional_embedding", "decoder.embed_positions.weight"),
)
_MODULES = (  # each with weight and bias; OpenAI's name is ours
    ("encoder.conv1", "encoder.conv1"),
    ("encoder.conv2", "encoder.conv2"),
    ("encoder.ln_post", "encoder.layer_norm"),
    ("decoder.ln", "decoder.layer_norm"),
)
_BLOCK_MODULES = (
    ("attn.out", "self_attn.out_proj"),
    ("attn_ln", "self_attn_layer_norm"),
    ("mlp.0", "fc1"),
    ("mlp.2", "fc2"),
    ("mlp_ln", "final_layer_norm"),
)
_CROSS_MODULES = (
    ("cross_attn.query", "encoder_attn.q_proj"),
    ("cross_attn.out", "encoder_attn.out_proj"),
    ("cross_attn_ln", "encoder_attn_layer_norm"),
)
_FUSED_SELF = (
    "attn.qkv",
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("attn.query", "attn.key", "attn.value"),
)
_FUSED_CROSS = (
    "cross_attn.key_value",
    ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    ("cross_attn.key", "cross_attn.value"),
)
_KEYS = ("self_attn.k_proj", "encoder_attn.k_proj")


def parameter_names(config: WhisperConfig) -> tuple[ParameterNames, ...]:
    """Return the table for a model of these dimensions, in the order of our state."""
    return tuple(_generate(config))


def parameter_shapes(config: WhisperConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of each of our parameters, without allocating any."""
    state = empty_model(config).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _generate(config: WhisperConfig) -> Iterator[ParameterNames]:
    for ours, hf in _TENSORS:
        yield ParameterNames(ours, (f"model.{hf}",), (ours,))
    for ours, hf in _MODULES:
        yield from _module(ours, f"model.{hf}")
    if config.separate_head:
        yield ParameterNames("decoder.head", (HF_HEAD,), (None,))  # OpenAI's files have none
    for half, n_layer in (("encoder", config.n_audio_layer), ("decoder", config.n_text_layer)):
        for layer in range(n_layer):
            yield from _block(half, layer)


def _block(half: str, layer: int) -> Iterator[ParameterNames]:
    ours_at, hf_at = f"{half}.blocks.{layer}.", f"model.{half}.layers.{layer}."
    crossed = half == "decoder"
    for ours, hf in (*_BLOCK_MODULES, *(_CROSS_MODULES if crossed else ())):
        yield from _module(ours_at + ours, hf_at + hf)
    for ours, hf_parts, openai_parts in (_FUSED_SELF, *((_FUSED_CROSS,) if crossed else ())):
        for kind in ("weight", "bias"):
            absent = [kind == "bias" and part in _KEYS for part in hf_parts]
            yield ParameterNames(
                f"{ours_at}{ours}.{kind}",
                _parts(hf_at, hf_parts, kind, absent),
                _parts(ours_at, openai_parts, kind, absent),
            )


def _module(ours: str, hf: str) -> Iterator[ParameterNames]:
    for kind in ("weight", "bias"):
        yield ParameterNames(f"{ours}.{kind}", (f"{hf}.{kind}",), (f"{ours}.{kind}",))


def _parts(
    prefix: str, parts: tuple[str, ...], kind: str, absent: list[bool]
) -> tuple[str | None, ...]:
    pairs = zip(parts, absent, strict=True)
    return tuple(None if gone else f"{prefix}{part}.{kind}" for part, gone in pairs)


def block_tails() -> tuple[str, ...]:
    """Return Hugging Face's names within a layer, such as `self_attn.q_proj.weight`."""
    parts = [hf for _, hf in (*_BLOCK_MODULES, *_CROSS_MODULES)]
    parts += [*_FUSED_SELF[1], *_FUSED_CROSS[1]]
    return tuple(f"{part}.{kind}" for part in parts for kind in ("weight", "bias"))
