"""Small Whispers as `.apr` files, made byte by byte."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from service.checkpoints.names import Naming
from service.checkpoints.state import parts_of
from service.model import WhisperModel
from service.text import WhisperTokenizer
from tests.unit.checkpoints.apr_bytes import V1, V2, WHISPER, vocabulary_section

_SHORT = {
    "encoder.embed_positions.weight": "encoder.positional_embedding",
    "decoder.embed_tokens.weight": "decoder.token_embedding",
    "decoder.embed_positions.weight": "decoder.positional_embedding",
}


def tensors_of(model: WhisperModel) -> dict[str, Tensor]:
    """Hugging Face's names, without `model.` -> tensors."""
    split = dict(parts_of(model.state_dict(), model.config, Naming.HF))
    return {name.removeprefix("model."): tensor.contiguous() for name, tensor in split.items()}


def _token(tokenizer: WhisperTokenizer, token_id: int) -> bytes:
    text = tokenizer.token_text(token_id) or ""
    return tokenizer.token_bytes(token_id) or text.encode()


def tokens_of(tokenizer: WhisperTokenizer) -> list[bytes]:
    return [_token(tokenizer, i) for i in range(tokenizer.n_vocab)]


def v2_of(
    model: WhisperModel,
    tokenizer: WhisperTokenizer | None,
    metadata: Mapping[str, Any] | None = None,
    prefix: str = "",
) -> V2:
    tensors = {
        prefix + name: (tuple(t.shape), 0, t.numpy().tobytes())
        for name, t in tensors_of(model).items()
    }
    if tokenizer is not None:
        section = vocabulary_section(tokens_of(tokenizer))
        tensors["__vocab__"] = ((len(section),), 7, section)
    heads = {"n_audio_head": model.config.n_audio_head, "num_heads": model.config.n_text_head}
    return V2(tensors, {**WHISPER, **heads, **(metadata or {})})


def v1_of(model: WhisperModel, tokenizer: WhisperTokenizer | None) -> V1:
    c = model.config
    numbers = {
        "n_vocab": c.n_vocab, "n_audio_ctx": c.n_audio_ctx, "n_audio_state": c.d_model,
        "n_audio_head": c.n_audio_head, "n_audio_layer": c.n_audio_layer,
        "n_text_ctx": c.n_text_ctx, "n_text_state": c.d_model, "n_text_head": c.n_text_head,
        "n_text_layer": c.n_text_layer, "n_mels": c.n_mels,
    }  # fmt: skip
    tensors = {
        _SHORT.get(name, name): (tuple(t.shape), t.numpy().tobytes())
        for name, t in tensors_of(model).items()
    }
    section = vocabulary_section(tokens_of(tokenizer)) if tokenizer else None
    return V1(tensors, numbers, vocabulary=section)
