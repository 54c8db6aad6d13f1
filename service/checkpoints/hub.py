"""Model folders from the Hugging Face hub or its cache. Knows nothing about their contents."""

from __future__ import annotations

import re
from pathlib import Path

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
TOKENIZER_FILES = [
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
]
_MODEL_FILES = [
    "config.json",
    "generation_config.json",
    *TOKENIZER_FILES,
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*.safetensors",
]
_OLD_WEIGHTS = ["pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin"]


def is_hub_id(source: str) -> bool:
    """Whether this has the form of a hub id, "owner/name"."""
    return _HUB_ID.fullmatch(source) is not None and not source.startswith(".")


def fetch_model(hub_id: str, *, offline: bool) -> Path:
    """Return a folder with the model's files, downloaded unless they are in the cache.

    Weights are taken as safetensors where the hub has them.

    Raises:
        CheckpointError: if there is no such model, or it cannot be reached; says what to do.
    """
    folder = _fetch(hub_id, _MODEL_FILES, offline=offline)
    if not any(folder.glob("model*.safetensors*")):
        folder = _fetch(hub_id, [*_MODEL_FILES, *_OLD_WEIGHTS], offline=offline)
    return folder


def fetch_tokenizer(hub_id: str, *, offline: bool) -> Path:
    """Return a folder with the tokenizer's files of a model, as `fetch_model`."""
    return _fetch(hub_id, ["config.json", *TOKENIZER_FILES], offline=offline)


def _fetch(hub_id: str, patterns: list[str], *, offline: bool) -> Path:
    from service.checkpoints.download import download  # noqa: PLC0415 - for hub ids only

    return download(hub_id, patterns, offline=offline)
