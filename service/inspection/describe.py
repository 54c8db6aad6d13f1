"""A model file in plain values, for people and for JSON. Knows nothing about formats.

It takes a checkpoint by what it needs of it, so it does not depend on the loaders.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Protocol

import torch

from service.model.config import WhisperConfig
from service.text.tokenizer import WhisperTokenizer


class StoredTensor(Protocol):
    """What a file says about one tensor."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its extents."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Its dtype in the file."""
        ...

    @property
    def nbytes(self) -> int:
        """Its bytes in the file."""
        ...


class State(Protocol):
    """What is asked of a checkpoint's weights."""

    @property
    def tensors(self) -> Mapping[str, StoredTensor]:
        """The file's own names -> what it says about them."""
        ...

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Our parameter names -> shapes."""
        ...


class Describable(Protocol):
    """What is asked of a checkpoint; `service.checkpoints.Checkpoint` has it."""

    @property
    def name(self) -> str:
        """What the model is called."""
        ...

    @property
    def format(self) -> str:
        """How its weights are stored."""
        ...

    @property
    def source(self) -> str:
        """Where it came from."""
        ...

    @property
    def config(self) -> WhisperConfig:
        """Its dimensions."""
        ...

    @property
    def state(self) -> State:
        """Its weights."""
        ...

    @property
    def tokenizer(self) -> WhisperTokenizer:
        """Its tokens."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class TensorDescription:
    """One tensor of the file, by the file's name."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int


@dataclasses.dataclass(frozen=True, slots=True)
class TokenizerDescription:
    """The vocabulary in short; ids of special tokens, None where it has none.

    Attributes:
        n_vocab: tokens.
        n_text: tokens that stand for text.
        n_languages: languages that a prompt can name, 0 for an English-only model.
        is_multilingual: whether prompts name a language and a task.
        special: name -> id.
    """

    n_vocab: int
    n_text: int
    n_languages: int
    is_multilingual: bool
    special: dict[str, int | None]


@dataclasses.dataclass(frozen=True, slots=True)
class ModelDescription:
    """Everything that `earshot inspect` shows.

    Attributes:
        name, format, source: of the checkpoint.
        dims: the fields of `WhisperConfig`.
        parameters: part of the model -> numbers that it holds; "total" is their sum. The LM head
            is the token embedding and counted there.
        nbytes: bytes of all tensors in the file.
        tensors: in the order of the file.
        tokenizer: the vocabulary in short.
    """

    name: str
    format: str
    source: str
    dims: dict[str, int]
    parameters: dict[str, int]
    nbytes: int
    tensors: tuple[TensorDescription, ...]
    tokenizer: TokenizerDescription

    def to_json(self) -> dict[str, object]:
        """Return nested dictionaries and lists of plain values."""
        content = dataclasses.asdict(self)
        content["tensors"] = [t | {"shape": list(t["shape"])} for t in content["tensors"]]
        return content


def describe(checkpoint: Describable) -> ModelDescription:
    """Return what the checkpoint holds, without reading a single weight."""
    tensors = tuple(
        TensorDescription(
            name, tensor.shape, str(tensor.dtype).removeprefix("torch."), tensor.nbytes
        )
        for name, tensor in checkpoint.state.tensors.items()
    )
    return ModelDescription(
        name=checkpoint.name,
        format=str(checkpoint.format),
        source=checkpoint.source,
        dims={
            field.name: getattr(checkpoint.config, field.name)
            for field in dataclasses.fields(checkpoint.config)
        },
        parameters=_parameters(checkpoint.state.shapes),
        nbytes=sum(tensor.nbytes for tensor in tensors),
        tensors=tensors,
        tokenizer=_tokenizer(checkpoint.tokenizer),
    )


_PARTS = {
    "decoder.token_embedding.": "token embedding and LM head",
    "encoder.": "encoder",
    "decoder.": "decoder",
}


def _parameters(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    counts = dict.fromkeys(("encoder", "decoder", "token embedding and LM head"), 0)
    for name, shape in shapes.items():
        part = next(part for prefix, part in _PARTS.items() if name.startswith(prefix))
        counts[part] += torch.Size(shape).numel()
    return counts | {"total": sum(counts.values())}


def _tokenizer(tokenizer: WhisperTokenizer) -> TokenizerDescription:
    names = ("eot", "sot", "sot_prev", "sot_lm", "no_speech", "no_timestamps", "transcribe")
    return TokenizerDescription(
        n_vocab=tokenizer.n_vocab,
        n_text=sum(tokenizer.is_text(i) for i in range(tokenizer.timestamp_begin)),
        n_languages=len(tokenizer.languages),
        is_multilingual=tokenizer.is_multilingual,
        special={
            name: getattr(tokenizer, name) for name in (*names, "translate", "timestamp_begin")
        },
    )
