"""A model file to look at, whether or not it can be served. Knows every format.

`load_checkpoint` refuses what is incomplete. Here what is missing is None, with the reason beside
it, and only a file whose bytes make no sense is refused. Of the weights only an LM head is read, to
see whether it is the token embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from service.checkpoints.apr.file import Checksum
from service.checkpoints.apr.model import open_apr
from service.checkpoints.apr.source import AprSource
from service.checkpoints.checkpoint import CheckpointFormat
from service.checkpoints.dims import dims_from_tensors
from service.checkpoints.hf import open_weights, with_prefix
from service.checkpoints.hf_config import config_from_json
from service.checkpoints.hub import fetch_model, is_hub_id
from service.checkpoints.load import (
    APR_MAGIC,
    SAFETENSORS_HEADER,
    apr_tokenizer,
    load_checkpoint,
    named_tokenizer,
)
from service.checkpoints.names import parameter_names
from service.checkpoints.openai_pt import config_from_dims, is_openai, own_content
from service.checkpoints.state import has_own_head
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


@dataclass(frozen=True, slots=True)
class ModelFile:
    """What a file holds.

    Attributes:
        name, format, source: what to call it, how its weights are stored, where it is.
        tensors: under the file's own names.
        names: Hugging Face's name -> the file's, for the tensors that a Whisper may have.
        config: the dimensions, None if this is no Whisper; `problem` says why.
        assumed: dimensions that nothing in the file says.
        contradictions: sentences about metadata that the tensors deny.
        metadata: what the file says beside its tensors.
        tokenizer: None if there is none; `tokenizer_problem` says why.
        filters: the embedded mel filterbank, f32[n_mels 201].
    """

    name: str
    format: CheckpointFormat
    source: str
    tensors: TensorSource
    names: Mapping[str, str]
    config: WhisperConfig | None
    problem: str | None = None
    assumed: tuple[str, ...] = ()
    contradictions: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: WhisperTokenizer | None = None
    tokenizer_problem: str | None = None
    filters: Tensor | None = None

    def checksums(self) -> Mapping[str, tuple[Checksum, ...]]:
        """Return file name -> checksums, computed now; nothing where the format has none."""
        return self.tensors.checksums() if isinstance(self.tensors, AprSource) else {}


def open_model(source: str | Path, *, tokenizer: str | None = None) -> ModelFile:
    """Open a folder, a file of any format, or a hub id.

    Args:
        source: as for `load_checkpoint`; a safetensors file alone is taken too.
        tokenizer: a folder, file or hub id to take the tokenizer from. Without one, a file that
            holds none has none: the hub is not asked.

    Raises:
        CheckpointError: if there is nothing, or its bytes make no sense.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return _open_folder(path, path.resolve().name, str(path), tokenizer)
    if path.is_file():
        return _open_file(path, tokenizer)
    if isinstance(source, str) and is_hub_id(source):
        return _open_folder(fetch_model(source, offline=False), source, source, tokenizer)
    load_checkpoint(source)  # says what is wrong with it
    raise CheckpointError(f"{source}: no such file or folder")


def _open_folder(folder: Path, name: str, source: str, tokenizer: str | None) -> ModelFile:
    tensors, kind = open_weights(folder)
    metadata = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    said = None
    if (folder / "generation_config.json").is_file():
        said = read_json(folder / "generation_config.json").get("is_multilingual")
    tokens, tokenizer_problem = None, None
    try:
        where = named_tokenizer(tokenizer, offline=False) if tokenizer else folder
        tokens = load_tokenizer(where, is_multilingual=said if isinstance(said, bool) else None)
    except CheckpointError as error:
        tokenizer_problem = error.message
    config, problem = None, None
    if metadata:
        try:
            config = config_from_json(folder / "config.json", metadata)
        except CheckpointError as error:
            problem = error.message
        names = _prefixed_names(tensors)
        return ModelFile(
            name, kind, source, tensors, names, config, problem,
            metadata=metadata, tokenizer=tokens, tokenizer_problem=tokenizer_problem,
        )  # fmt: skip
    return _from_shapes(name, kind, source, tensors, tokens, tokenizer_problem)


def _prefixed_names(tensors: TensorSource) -> dict[str, str]:
    renamed = with_prefix(tensors)
    return dict(zip(renamed.infos, tensors.infos, strict=True))


def _from_shapes(
    name: str,
    kind: CheckpointFormat,
    source: str,
    tensors: TensorSource,
    tokenizer: WhisperTokenizer | None,
    tokenizer_problem: str | None,
) -> ModelFile:
    """Open weights that come with no dimensions."""
    names = _prefixed_names(tensors)
    try:
        dims = dims_from_tensors({hf: tensors.infos[n] for hf, n in names.items()}, {})
    except CheckpointError as error:
        return ModelFile(
            name, kind, source, tensors, names, None, f"{source}: {error.message}",
            tokenizer=tokenizer, tokenizer_problem=tokenizer_problem,
        )  # fmt: skip
    own_head = has_own_head(RenamedSource(tensors, names))
    config = replace(dims.config, separate_head=own_head)
    return ModelFile(
        name, kind, source, tensors, names, config, None, dims.assumed,
        tokenizer=tokenizer, tokenizer_problem=tokenizer_problem,
    )  # fmt: skip


def _open_file(path: Path, tokenizer: str | None) -> ModelFile:
    with path.open("rb") as file:
        head = file.read(9)
    if head[:4] in APR_MAGIC:
        return _open_apr(path, tokenizer)
    named = load_tokenizer(named_tokenizer(tokenizer, offline=False)) if tokenizer else None
    none = None if named else f"{path}: the file holds no tokenizer"
    if head[8:] == SAFETENSORS_HEADER:
        weights = SafetensorsSource(path, [path])
        kind = CheckpointFormat.SAFETENSORS
        return _from_shapes(path.name, kind, str(path), weights, named, none)
    if not head.startswith((b"PK\x03\x04", b"\x80")):
        load_checkpoint(path)  # says what is wrong with it
    content = load_torch(path)
    if not is_openai(content):
        kind = CheckpointFormat.PYTORCH
        return _from_shapes(path.name, kind, str(path), TorchSource(path, content), named, none)
    return _open_openai(path, content, named)


def _open_openai(path: Path, content: dict[str, Any], named: WhisperTokenizer | None) -> ModelFile:
    own = own_content(path, content)
    config = config_from_dims(path, content["dims"], own["window_rounding_frames"])
    tensors = TorchSource(path, content["model_state_dict"])
    names = {
        hf: openai
        for parameter in parameter_names(config)
        for hf, openai in zip(parameter.hf, parameter.openai, strict=True)
        if hf is not None and openai in tensors.infos
    }
    if named is None and own["tokenizer"] is not None:
        multilingual = (own["generation_config"] or {}).get("is_multilingual")
        named = WhisperTokenizer(own["tokenizer"], is_multilingual=multilingual)
    return ModelFile(
        path.name, CheckpointFormat.OPENAI, str(path), tensors,
        {hf: name for hf, name in names.items() if name is not None}, config,
        metadata=content["dims"], tokenizer=named,
        tokenizer_problem=None if named else f"{path}: the file holds no tokenizer",
    )  # fmt: skip


def _open_apr(path: Path, tokenizer: str | None) -> ModelFile:
    source = AprSource(path)
    kind = CheckpointFormat.APR_V1 if source.version == 1 else CheckpointFormat.APR_V2
    try:
        model = open_apr(path)
    except CheckpointError as error:
        return ModelFile(
            path.name, kind, str(path), source, {}, None, error.message,
            metadata=source.metadata, filters=source.filters,
        )  # fmt: skip
    tokens, tokenizer_problem = None, None
    try:
        if tokenizer is not None:
            tokens = apr_tokenizer(model, tokenizer, offline=False)
        else:
            tokens = model.tokenizer()
            tokenizer_problem = None if tokens else f"{path}: the file holds no tokenizer"
    except CheckpointError as error:
        tokenizer_problem = error.message
    return ModelFile(
        path.name, kind, str(path), source, model.names, model.config, None,
        model.dims.assumed, model.dims.contradictions, model.metadata,
        tokens, tokenizer_problem, model.filters,
    )  # fmt: skip
