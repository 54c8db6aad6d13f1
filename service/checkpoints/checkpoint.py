"""What a model file comes to, whatever its format. Knows nothing about formats."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import torch
from torch import Tensor

from service.checkpoints.alignment_heads import alignment_heads
from service.checkpoints.state import CheckpointState
from service.model.config import WhisperConfig
from service.model.empty import empty_model
from service.model.whisper import WhisperModel
from service.text.tokenizer import WhisperTokenizer


class CheckpointFormat(enum.StrEnum):
    """How the weights are stored."""

    SAFETENSORS = "safetensors"
    PYTORCH = "pytorch"
    OPENAI = "openai"
    APR_V1 = "apr-v1"
    APR_V2 = "apr-v2"


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """How a model wants to be decoded.

    Attributes:
        is_multilingual: whether prompts name a language and a task.
        suppress_tokens: ids that are never sampled.
        begin_suppress_tokens: ids that may not come first.
        alignment_heads: (layer, head) of the cross-attentions that follow the audio.
        max_initial_timestamp_index: the latest first timestamp in steps of 0.02 s, None for none.
    """

    is_multilingual: bool
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    alignment_heads: tuple[tuple[int, int], ...] = ()
    max_initial_timestamp_index: int | None = 50


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model that can be built and served.

    Attributes:
        config: its dimensions.
        state: our parameter names -> tensors, read from the file on demand.
        tokenizer: its tokens.
        generation: how it wants to be decoded.
        name: what to call it: a hub id, or the name of the folder or file.
        format: how its weights are stored.
        source: the path or hub id that it was loaded from.
    """

    config: WhisperConfig
    state: CheckpointState
    tokenizer: WhisperTokenizer
    generation: GenerationConfig
    name: str
    format: CheckpointFormat
    source: str


def default_generation(config: WhisperConfig, tokenizer: WhisperTokenizer) -> GenerationConfig:
    """Return what openai/whisper does for a model that does not say how to decode it.

    Non-speech and control tokens are never sampled, blank and end-of-text do not come first, and
    the heads that OpenAI published for a model of this size follow the audio.
    """
    suppressed = {*tokenizer.non_speech_tokens, *tokenizer.control_tokens}
    return GenerationConfig(
        is_multilingual=tokenizer.is_multilingual,
        suppress_tokens=tuple(sorted(suppressed)),
        begin_suppress_tokens=(*tokenizer.blank_tokens, tokenizer.eot),
        alignment_heads=alignment_heads(config),
    )


def build_model(
    checkpoint: Checkpoint,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> WhisperModel:
    """Return the model with the checkpoint's weights, in eval mode, without gradients.

    Each tensor goes from the file straight to its dtype and device, and shares no memory with it.
    """
    model = empty_model(checkpoint.config)
    weights: dict[str, Tensor] = {}
    for name, shape in checkpoint.state.shapes.items():
        weights[name] = torch.empty(shape, device=device, dtype=dtype)
        checkpoint.state.read_into(name, weights[name])
    model.load_state_dict(weights, strict=True, assign=True)
    return model.requires_grad_(False).eval()
