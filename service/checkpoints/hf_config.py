"""Hugging Face's JSON files, to our types and back. Knows nothing about tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service.checkpoints.alignment_heads import alignment_heads
from service.checkpoints.checkpoint import GenerationConfig, default_generation
from service.errors import CheckpointError
from service.model.config import WhisperConfig
from service.text.tokenizer import WhisperTokenizer

CONFIG_FIELDS = {
    "n_mels": "num_mel_bins",
    "n_audio_ctx": "max_source_positions",
    "d_model": "d_model",
    "n_audio_head": "encoder_attention_heads",
    "n_audio_layer": "encoder_layers",
    "n_audio_ffn": "encoder_ffn_dim",
    "n_vocab": "vocab_size",
    "n_text_ctx": "max_target_positions",
    "n_text_head": "decoder_attention_heads",
    "n_text_layer": "decoder_layers",
    "n_text_ffn": "decoder_ffn_dim",
}
"""Our name of a dimension -> its field in config.json."""
_FIXED = {"activation_function": "gelu", "scale_embedding": False}
"""Fields that would change the architecture if they had another value."""


def config_from_json(path: Path, content: Mapping[str, Any]) -> WhisperConfig:
    """Return the dimensions in a `config.json`.

    Raises:
        CheckpointError: if this is no Whisper, or a field is missing, or not a possible dimension.
    """
    if content.get("model_type") != "whisper":
        raise CheckpointError(
            f"{path}: expected model_type 'whisper', found {content.get('model_type')!r}"
        )
    for field, expected in _FIXED.items():
        if content.get(field, expected) != expected:
            raise CheckpointError(
                f"{path}: {field} is {content[field]!r}, only {expected!r} is supported"
            )
    tied = content.get("tie_word_embeddings", True)
    if not isinstance(tied, bool):
        raise CheckpointError(f"{path}: tie_word_embeddings must be true or false, found {tied!r}")
    missing = [field for field in CONFIG_FIELDS.values() if field not in content]
    if missing:
        raise CheckpointError(f"{path}: missing fields: {', '.join(missing)}")
    wanted = {**CONFIG_FIELDS, "window_rounding_frames": "window_rounding_frames"}
    dims = {ours: content.get(field, 0) for ours, field in wanted.items()}
    for ours, value in dims.items():
        if not isinstance(value, int) or isinstance(value, bool):
            raise CheckpointError(f"{path}: {wanted[ours]} must be an integer, found {value!r}")
    try:
        return WhisperConfig(**dims, separate_head=not tied)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def generation_from_json(
    path: Path,
    content: Mapping[str, Any] | None,
    config: WhisperConfig,
    tokenizer: WhisperTokenizer,
) -> GenerationConfig:
    """Return what a `generation_config.json` says, openai/whisper's defaults where there is none.

    Raises:
        CheckpointError: if a field has a value that means nothing.
    """
    if content is None:
        return default_generation(config, tokenizer)
    heads = _heads(path, content.get("alignment_heads"), config)
    latest = content.get("max_initial_timestamp_index", 50)
    if latest is not None and not (isinstance(latest, int) and latest >= 0):
        raise CheckpointError(
            f"{path}: max_initial_timestamp_index must be an integer from 0, found {latest!r}"
        )
    return GenerationConfig(
        is_multilingual=tokenizer.is_multilingual,
        suppress_tokens=_ids(path, content, "suppress_tokens", config.n_vocab),
        begin_suppress_tokens=_ids(path, content, "begin_suppress_tokens", config.n_vocab),
        alignment_heads=heads or alignment_heads(config),
        max_initial_timestamp_index=latest,
    )


def _ids(path: Path, content: Mapping[str, Any], field: str, n_vocab: int) -> tuple[int, ...]:
    """Return the ids that the model has: transformers writes those of its defaults for all."""
    ids = content.get(field) or []
    if not isinstance(ids, list) or not all(isinstance(i, int) for i in ids):
        raise CheckpointError(f"{path}: {field} must list token ids, found {ids!r}")
    return tuple(i for i in ids if 0 <= i < n_vocab)


def _heads(
    path: Path, content: list[list[int]] | None, config: WhisperConfig
) -> tuple[tuple[int, int], ...]:
    """Return the alignment heads that exist: distilled models inherit those of their teacher."""
    try:
        pairs = [(int(layer), int(head)) for layer, head in content or []]
    except (TypeError, ValueError):
        raise CheckpointError(
            f"{path}: alignment_heads must list pairs [layer, head], found {content!r}"
        ) from None
    shape = (config.n_text_layer, config.n_text_head)
    return tuple(p for p in pairs if 0 <= p[0] < shape[0] and 0 <= p[1] < shape[1])


def config_to_json(
    config: WhisperConfig, tokenizer: WhisperTokenizer | None, dtype: str
) -> dict[str, Any]:
    """Return the `config.json` of a model, as transformers reads it."""
    content: dict[str, Any] = {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "dtype": dtype,
        **{field: getattr(config, ours) for ours, field in CONFIG_FIELDS.items()},
        **_FIXED,
        "is_encoder_decoder": True,
        "num_hidden_layers": config.n_audio_layer,
        "tie_word_embeddings": not config.separate_head,
        "window_rounding_frames": config.window_rounding_frames,
    }
    return content | (_end_tokens(tokenizer) if tokenizer else {})


def generation_to_json(
    generation: GenerationConfig, tokenizer: WhisperTokenizer | None
) -> dict[str, Any]:
    """Return the `generation_config.json` of a model, as transformers reads it."""
    content: dict[str, Any] = {
        "is_multilingual": generation.is_multilingual,
        "suppress_tokens": list(generation.suppress_tokens) or None,
        "begin_suppress_tokens": list(generation.begin_suppress_tokens) or None,
        "alignment_heads": [list(pair) for pair in generation.alignment_heads],
        "max_initial_timestamp_index": generation.max_initial_timestamp_index,
    }
    if tokenizer is None:
        return content
    content |= {**_end_tokens(tokenizer), "no_timestamps_token_id": tokenizer.no_timestamps}
    content["prev_sot_token_id"] = tokenizer.sot_prev
    if generation.is_multilingual:
        content["lang_to_id"] = {f"<|{code}|>": i for code, i in tokenizer.languages.items()}
        tasks = {"transcribe": tokenizer.transcribe, "translate": tokenizer.translate}
        content["task_to_id"] = {task: i for task, i in tasks.items() if i is not None}
    return content


def _end_tokens(tokenizer: WhisperTokenizer) -> dict[str, int]:
    return {
        "bos_token_id": tokenizer.eot,
        "eos_token_id": tokenizer.eot,
        "pad_token_id": tokenizer.eot,
        "decoder_start_token_id": tokenizer.sot,
    }
