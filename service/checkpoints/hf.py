"""Folders in Hugging Face's layout, read and written. Knows nothing about hubs or other formats."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from service.checkpoints.checkpoint import Checkpoint, CheckpointFormat, GenerationConfig
from service.checkpoints.hf_config import (
    config_from_json,
    config_to_json,
    generation_from_json,
    generation_to_json,
)
from service.checkpoints.names import Naming
from service.checkpoints.state import CheckpointState, parts_of
from service.checkpoints.tensors import (
    RenamedSource,
    SafetensorsSource,
    TensorSource,
    TorchSource,
    load_torch,
    read_json,
)
from service.errors import CheckpointError
from service.model.config import WhisperConfig
from service.text.tokenizer import WhisperTokenizer, load_tokenizer

SAFETENSORS = "model.safetensors"
PYTORCH = "pytorch_model.bin"


def load_hf_folder(folder: Path, *, name: str, tokenizer: Path | None = None) -> Checkpoint:
    """Read config, weights, tokenizer and generation settings of a folder.

    Args:
        folder: holds config.json, the weights and the tokenizer's files.
        name: what to call the model.
        tokenizer: another folder or file to take the tokenizer from.

    Raises:
        CheckpointError: naming the file, and the tensor, that cannot be served.
    """
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder}: no config.json, so this is no model folder")
    content = read_json(folder / "config.json")
    config = config_from_json(folder / "config.json", content)
    source, kind = open_weights(folder)
    state = CheckpointState(with_prefix(source), Naming.HF, config)
    path = folder / "generation_config.json"
    settings = read_json(path) if path.is_file() else None
    if settings is None and "suppress_tokens" in content:  # checkpoints older than that file
        path, settings = folder / "config.json", content
    said = (settings or {}).get("is_multilingual")
    tokens = load_tokenizer(
        tokenizer or folder, is_multilingual=said if isinstance(said, bool) else None
    )
    check_vocabulary(folder, config, tokens)
    generation = generation_from_json(path, settings, config, tokens)
    return Checkpoint(config, state, tokens, generation, name, kind, str(folder))


def check_vocabulary(path: Path, config: WhisperConfig, tokenizer: WhisperTokenizer) -> None:
    """Refuse a tokenizer with tokens that the model has no logits for.

    Raises:
        CheckpointError: naming both sizes.
    """
    needed = max(tokenizer.n_vocab, tokenizer.timestamp_begin + 1)
    if needed > config.n_vocab:
        raise CheckpointError(
            f"{path}: the tokenizer has {needed} tokens, the model only {config.n_vocab}"
        )


def open_weights(folder: Path) -> tuple[TensorSource, CheckpointFormat]:
    """Return the tensors of a folder, of one file or of shards.

    Raises:
        CheckpointError: if there are none, or they are damaged.
    """
    for file_name, kind in (
        (SAFETENSORS, CheckpointFormat.SAFETENSORS),
        (PYTORCH, CheckpointFormat.PYTORCH),
    ):
        index = folder / f"{file_name}.index.json"
        if (folder / file_name).is_file():
            path, files, listed = folder / file_name, [folder / file_name], None
        elif index.is_file():
            path, (files, listed) = index, _shards(index)
        else:
            continue
        if kind is CheckpointFormat.SAFETENSORS:
            source: TensorSource = SafetensorsSource(path, files)
        else:
            source = TorchSource(
                path, {k: t for file in files for k, t in load_torch(file).items()}
            )
        absent = sorted((listed or set()) - set(source.infos))
        if absent:
            raise CheckpointError(f"{index}: lists {absent[0]}, which none of its files holds")
        return source, kind
    raise CheckpointError(f"{folder}: no weights, expected {SAFETENSORS} or {PYTORCH}")


def _shards(index: Path) -> tuple[list[Path], set[str]]:
    """Return the files that an index names, and the tensors that it lists."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: no weight_map")
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name:
            raise CheckpointError(f"{index}: names {name!r}, which is not a file beside it")
        if not (index.parent / name).is_file():
            raise CheckpointError(f"{index}: its file {name} is missing")
    return [index.parent / name for name in names], set(weight_map)


def with_prefix(source: TensorSource) -> TensorSource:
    """Return the source with "model." before names that lack it, as a bare `WhisperModel`'s do."""
    bare = all(name.startswith(("encoder.", "decoder.")) for name in source.infos)
    return RenamedSource(source, {f"model.{n}": n for n in source.infos}) if bare else source


def save_hf_folder(
    folder: Path,
    state: Mapping[str, Tensor],
    config: WhisperConfig,
    *,
    tokenizer: WhisperTokenizer | None = None,
    generation: GenerationConfig | None = None,
    dtype: torch.dtype | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> None:
    """Write a model folder that Earshot and transformers read.

    Args:
        folder: made if it does not exist; its files of the same names are overwritten.
        state: our parameter names -> tensors: `model.state_dict()` or `checkpoint.state`.
        config: the model's dimensions.
        tokenizer: written as tokenizer.json if given; `load_checkpoint` needs one.
        generation: written as generation_config.json if given.
        dtype: of the weights in the file; None keeps theirs.
        progress: told how many numbers were made ready to be written.

    Raises:
        CheckpointError: if a parameter is missing or has the wrong shape.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    for name, tensor in parts_of(state, config, Naming.HF):
        tensors[name] = tensor.detach().to("cpu", dtype or tensor.dtype, copy=True).contiguous()
        progress(tensor.numel())
    stored = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    _write_json(folder / "config.json", config_to_json(config, tokenizer, stored))
    if generation is not None:
        _write_json(folder / "generation_config.json", generation_to_json(generation, tokenizer))
    if tokenizer is not None:
        (folder / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
    save_file(tensors, folder / SAFETENSORS, metadata={"format": "pt"})


def _write_json(path: Path, content: Mapping[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
