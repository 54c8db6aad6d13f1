"""OpenAI's `.pt` files. Knows nothing about where their tokenizer comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service.checkpoints.names import Naming
from service.checkpoints.state import CheckpointState
from service.checkpoints.tensors import TorchSource
from service.errors import CheckpointError
from service.model.config import WhisperConfig

_DIMS = (
    "n_mels",
    "n_audio_ctx",
    "n_audio_state",
    "n_audio_head",
    "n_audio_layer",
    "n_vocab",
    "n_text_ctx",
    "n_text_state",
    "n_text_head",
    "n_text_layer",
)

OWN_KEY = "earshot"
"""Under this key Earshot keeps, as JSON, what OpenAI's dictionary has no place for."""

RELEASED = {
    (80, 384, 4, 4, 51864): "tiny.en",
    (80, 384, 4, 4, 51865): "tiny",
    (80, 512, 6, 6, 51864): "base.en",
    (80, 512, 6, 6, 51865): "base",
    (80, 768, 12, 12, 51864): "small.en",
    (80, 768, 12, 12, 51865): "small",
    (80, 1024, 24, 24, 51864): "medium.en",
    (80, 1024, 24, 24, 51865): "medium",
    (80, 1280, 32, 32, 51865): "large-v2",
    (128, 1280, 32, 32, 51866): "large-v3",
    (128, 1280, 32, 4, 51866): "large-v3-turbo",
}
"""(n_mels, d_model, n_audio_layer, n_text_layer, n_vocab) -> the size that was released so."""


def is_openai(content: Mapping[str, Any]) -> bool:
    """Whether what `torch.load` gave has the layout of OpenAI's files."""
    return isinstance(content.get("dims"), dict) and isinstance(
        content.get("model_state_dict"), dict
    )


def config_from_dims(
    path: Path, dims: Mapping[str, Any], window_rounding_frames: int = 0
) -> WhisperConfig:
    """Return the dimensions in an OpenAI file.

    Raises:
        CheckpointError: if a dimension is missing or not possible.
    """
    wrong = [name for name in _DIMS if not isinstance(dims.get(name), int)]
    if wrong:
        raise CheckpointError(
            f"{path}: dims must have integers for {', '.join(wrong)}, "
            f"found {[dims.get(name) for name in wrong]}"
        )
    if dims["n_audio_state"] != dims["n_text_state"]:
        raise CheckpointError(
            f"{path}: n_audio_state={dims['n_audio_state']} and "
            f"n_text_state={dims['n_text_state']} must be the same"
        )
    shared = {name: dims[name] for name in _DIMS if not name.endswith("_state")}
    d_model = dims["n_text_state"]
    try:
        return WhisperConfig(
            **shared,
            d_model=d_model,
            n_audio_ffn=4 * d_model,
            n_text_ffn=4 * d_model,
            window_rounding_frames=window_rounding_frames,
        )
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def dims_from_config(path: Path, config: WhisperConfig) -> dict[str, int]:
    """Return OpenAI's dimensions.

    Raises:
        CheckpointError: if the feed-forward is not four times as wide, or the head separate, which
            they cannot say.
    """
    if config.separate_head:
        raise CheckpointError(f"{path}: OpenAI's format has no LM head but the token embedding")
    for name in ("n_audio_ffn", "n_text_ffn"):
        if getattr(config, name) != 4 * config.d_model:
            raise CheckpointError(
                f"{path}: {name} is {getattr(config, name)}, in OpenAI's format it is 4 times "
                f"d_model ({4 * config.d_model})"
            )
    dims = {name: getattr(config, name) for name in _DIMS if not name.endswith("_state")}
    return dims | {"n_audio_state": config.d_model, "n_text_state": config.d_model}


def own_content(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what Earshot wrote beside OpenAI's content, nothing for a file of OpenAI's.

    Raises:
        CheckpointError: if it is damaged.
    """
    kinds = {"tokenizer": dict, "generation_config": dict, "window_rounding_frames": int}
    try:
        own = json.loads(content.get(OWN_KEY, "{}"))
        wrong = [key for key, kind in kinds.items() if not isinstance(own.get(key, kind()), kind)]
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: {OWN_KEY} is not a JSON object: {error}") from error
    if wrong:
        raise CheckpointError(f"{path}: {OWN_KEY} has no usable {', '.join(wrong)}")
    return {"tokenizer": None, "generation_config": None, "window_rounding_frames": 0, **own}


def state_from_openai(
    path: Path, tensors: Mapping[str, object], config: WhisperConfig
) -> CheckpointState:
    """Return the weights of an OpenAI file under our names.

    Raises:
        CheckpointError: naming the tensors at fault.
    """
    return CheckpointState(TorchSource(path, tensors), Naming.OPENAI, config)


def released_size(config: WhisperConfig) -> str | None:
    """Return the name of the released model with these dimensions, None if there is none."""
    return RELEASED.get(
        (
            config.n_mels,
            config.d_model,
            config.n_audio_layer,
            config.n_text_layer,
            config.n_vocab,
        )
    )
