"""Any model that Earshot can serve, from a path or a hub id. Knows formats by their bytes.

Suffixes are never looked at: people rename files.
"""

from __future__ import annotations

from pathlib import Path

from service.checkpoints.apr.file import V1_MAGIC, V2_MAGICS
from service.checkpoints.apr.model import AprModel, open_apr
from service.checkpoints.checkpoint import Checkpoint, CheckpointFormat
from service.checkpoints.hf import check_vocabulary, load_hf_folder
from service.checkpoints.hf_config import generation_from_json
from service.checkpoints.hub import fetch_model, fetch_tokenizer, is_hub_id
from service.checkpoints.names import Naming
from service.checkpoints.openai_pt import (
    config_from_dims,
    is_openai,
    own_content,
    released_size,
    state_from_openai,
)
from service.checkpoints.state import CheckpointState
from service.checkpoints.tensors import load_torch
from service.errors import CheckpointError
from service.model.config import WhisperConfig
from service.text.tokenizer import WhisperTokenizer, load_tokenizer

APR_MAGIC = (V1_MAGIC, *V2_MAGICS)
_ZIP_MAGIC = b"PK\x03\x04"
_PICKLE_MAGIC = b"\x80"
SAFETENSORS_HEADER = b"{"
"""A safetensors file starts with the length of a JSON header, in 8 bytes."""


def load_checkpoint(
    source: str | Path, *, tokenizer: str | None = None, offline: bool = False
) -> Checkpoint:
    """Read a model's description; its weights are read when the model is built.

    Args:
        source: a folder in Hugging Face's layout, an OpenAI `.pt` file, an `.apr` file, or a hub
            id such as "openai/whisper-tiny". An existing path goes before a hub id.
        tokenizer: a folder, a tokenizer.json or a hub id. A file that has no tokenizer of its own
            gets, by default, that of the released size that its dimensions match.
        offline: never ask the hub, use its cache only (as the variable HF_HUB_OFFLINE does).

    Raises:
        CheckpointError: one sentence that names the file, tensor or field, expected and found.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        if not any(path.iterdir()):
            raise CheckpointError(f"{path}: the folder is empty")
        other = named_tokenizer(tokenizer, offline=offline) if tokenizer else None
        return load_hf_folder(path, name=path.resolve().name, tokenizer=other)
    if path.is_file():
        return _load_file(path, tokenizer, offline=offline)
    if isinstance(source, str) and is_hub_id(source):
        other = named_tokenizer(tokenizer, offline=offline) if tokenizer else None
        folder = fetch_model(source, offline=offline)
        return load_hf_folder(folder, name=source, tokenizer=other)
    raise CheckpointError(
        f"{source}: no such file or folder, and not a hub id such as openai/whisper-tiny"
    )


def _load_file(path: Path, tokenizer: str | None, *, offline: bool) -> Checkpoint:
    with path.open("rb") as file:
        head = file.read(9)
    if head[:4] in APR_MAGIC:
        return _load_apr(path, tokenizer, offline=offline)
    if head[8:] == SAFETENSORS_HEADER:
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
    own = own_content(path, content)
    config = config_from_dims(path, content["dims"], own["window_rounding_frames"])
    state = state_from_openai(path, content["model_state_dict"], config)
    if own["tokenizer"] is not None and tokenizer is None:
        multilingual = (own["generation_config"] or {}).get("is_multilingual")
        tokens = WhisperTokenizer(own["tokenizer"], is_multilingual=multilingual)
        check_vocabulary(path, config, tokens)
    else:
        tokens = external_tokenizer(path, config, tokenizer, offline=offline)
    generation = generation_from_json(path, own["generation_config"], config, tokens)
    kind = CheckpointFormat.OPENAI
    return Checkpoint(config, state, tokens, generation, path.stem, kind, str(path))


def _load_apr(path: Path, tokenizer: str | None, *, offline: bool) -> Checkpoint:
    model = open_apr(path)
    model.check()
    state = CheckpointState(model.tensors, Naming.HF, model.config)
    tokens = apr_tokenizer(model, tokenizer, offline=offline)
    generation = model.generation(tokens)
    return Checkpoint(model.config, state, tokens, generation, path.stem, model.format, str(path))


def apr_tokenizer(model: AprModel, tokenizer: str | None, *, offline: bool) -> WhisperTokenizer:
    """Return the named tokenizer, or the embedded one, or that of the released size.

    Raises:
        CheckpointError: if there is none, or the embedded one is damaged.
    """
    if tokenizer is None:
        try:
            embedded = model.tokenizer()
        except CheckpointError:
            if released_size(model.config) is None:
                raise
            embedded = None
        if embedded is not None:
            check_vocabulary(model.path, model.config, embedded)
            return embedded
    return external_tokenizer(model.path, model.config, tokenizer, offline=offline)


def external_tokenizer(
    path: Path, config: WhisperConfig, tokenizer: str | None, *, offline: bool
) -> WhisperTokenizer:
    """Return the named tokenizer, or that of the released size, for a file that holds none.

    Raises:
        CheckpointError: if it cannot be had or is another model's.
    """
    if tokenizer is None:
        size = released_size(config)
        if size is None:
            raise CheckpointError(
                f"{path}: the file holds no tokenizer, and its dimensions are of no released "
                "size; name a tokenizer (EARSHOT_TOKENIZER: a folder, a tokenizer.json, a hub id)"
            )
        tokenizer = f"openai/whisper-{size}"
    tokens = load_tokenizer(named_tokenizer(tokenizer, offline=offline))
    check_vocabulary(path, config, tokens)
    written_out = tokens.n_vocab > tokens.timestamp_begin  # its timestamps too
    if written_out and tokens.n_vocab != config.n_vocab:
        raise CheckpointError(
            f"{path}: the model has {config.n_vocab} tokens, its tokenizer {tokenizer} has "
            f"{tokens.n_vocab}"
        )
    return tokens


def named_tokenizer(tokenizer: str, *, offline: bool) -> Path:
    """Return where the files of a named tokenizer are: a path, or a hub id's folder.

    Raises:
        CheckpointError: if there is no such thing.
    """
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
