"""Any model that Earshot can serve, from a path or a hub id. Knows formats by their bytes.

Suffixes are never looked at: people rename files.
"""

from __future__ import annotations

from pathlib import Path

from service.checkpoints.checkpoint import Checkpoint, CheckpointFormat, default_generation
from service.checkpoints.hf import check_vocabulary, load_hf_folder
from service.checkpoints.hub import fetch_model, fetch_tokenizer, is_hub_id
from service.checkpoints.openai_pt import (
    config_from_dims,
    is_openai,
    released_size,
    state_from_openai,
)
from service.checkpoints.tensors import load_torch
from service.errors import CheckpointError
from service.model.config import WhisperConfig
from service.text.tokenizer import WhisperTokenizer, load_tokenizer

_APR_MAGIC = (b"APR1", b"APR\0", b"APR2")
_ZIP_MAGIC = b"PK\x03\x04"
_PICKLE_MAGIC = b"\x80"
_SAFETENSORS_HEADER = b"{"
"""A safetensors file starts with the length of a JSON header, in 8 bytes."""


def load_checkpoint(
    source: str | Path, *, tokenizer: str | None = None, offline: bool = False
) -> Checkpoint:
    """Read a model's description; its weights are read when the model is built.

    Args:
        source: a folder in Hugging Face's layout, an OpenAI `.pt` file, or a hub id such as
            "openai/whisper-tiny". An existing path goes before a hub id.
        tokenizer: a folder, a tokenizer.json or a hub id. An OpenAI file has no tokenizer of its
            own; by default it gets that of the released size that its dimensions match.
        offline: never ask the hub, use its cache only (as the variable HF_HUB_OFFLINE does).

    Raises:
        CheckpointError: one sentence that names the file, tensor or field, expected and found.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        if not any(path.iterdir()):
            raise CheckpointError(f"{path}: the folder is empty")
        other = _tokenizer_path(tokenizer, offline=offline) if tokenizer else None
        return load_hf_folder(path, name=path.resolve().name, tokenizer=other)
    if path.is_file():
        return _load_file(path, tokenizer, offline=offline)
    if isinstance(source, str) and is_hub_id(source):
        other = _tokenizer_path(tokenizer, offline=offline) if tokenizer else None
        folder = fetch_model(source, offline=offline)
        return load_hf_folder(folder, name=source, tokenizer=other)
    raise CheckpointError(
        f"{source}: no such file or folder, and not a hub id such as openai/whisper-tiny"
    )


def _load_file(path: Path, tokenizer: str | None, *, offline: bool) -> Checkpoint:
    with path.open("rb") as file:
        head = file.read(9)
    if head[:4] in _APR_MAGIC:
        raise CheckpointError(f"{path}: an .apr model, which this version cannot read yet")
    if head[8:] == _SAFETENSORS_HEADER:
        raise CheckpointError(
            f"{path}: safetensors alone are no model; give the folder with its config.json"
        )
    if not head.startswith((_ZIP_MAGIC, _PICKLE_MAGIC)):
        raise CheckpointError(
            f"{path}: not a model file that Earshot knows; it starts with {head[:4]!r}"
        )
    content = load_torch(path)
    if not is_openai(content):
        raise CheckpointError(
            f"{path}: expected OpenAI's dims and model_state_dict, found "
            f"{[*map(str, content)][:3]}; "
            "for Hugging Face's weights give their folder"
        )
    config = config_from_dims(path, content["dims"])
    state = state_from_openai(path, content["model_state_dict"], config)
    tokens = _openai_tokenizer(path, config, tokenizer, offline=offline)
    generation = default_generation(config, tokens)
    kind = CheckpointFormat.OPENAI
    return Checkpoint(config, state, tokens, generation, path.stem, kind, str(path))


def _openai_tokenizer(
    path: Path, config: WhisperConfig, tokenizer: str | None, *, offline: bool
) -> WhisperTokenizer:
    if tokenizer is None:
        size = released_size(config)
        if size is None:
            raise CheckpointError(
                f"{path}: an OpenAI file holds no tokenizer, and its dimensions are of no released "
                "size; name a tokenizer (EARSHOT_TOKENIZER: a folder, a tokenizer.json, a hub id)"
            )
        tokenizer = f"openai/whisper-{size}"
    tokens = load_tokenizer(_tokenizer_path(tokenizer, offline=offline))
    check_vocabulary(path, config, tokens)
    written_out = tokens.n_vocab > tokens.timestamp_begin  # its timestamps too
    if written_out and tokens.n_vocab != config.n_vocab:
        raise CheckpointError(
            f"{path}: the model has {config.n_vocab} tokens, its tokenizer {tokenizer} has "
            f"{tokens.n_vocab}"
        )
    return tokens


def _tokenizer_path(tokenizer: str, *, offline: bool) -> Path:
    path = Path(tokenizer).expanduser()
    if path.exists():
        return path
    if not is_hub_id(tokenizer):
        raise CheckpointError(
            f"the tokenizer {tokenizer}: no such file or folder, and not a hub id such as "
            "openai/whisper-tiny"
        )
    try:
        return fetch_tokenizer(tokenizer, offline=offline)
    except CheckpointError as error:
        raise CheckpointError(
            f"the tokenizer {error.message} with a tokenizer (EARSHOT_TOKENIZER)"
        ) from error
