"""A model file in plain values, for people and for JSON. Knows nothing about formats.

No weight is read here, and what the file lacks is None.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from service.audio.mel import mel_filterbank
from service.inspection.opened import Opened
from service.text.tokenizer import WhisperTokenizer

_SHOWN_CHARACTERS = 200
"""A longer value of the metadata is told by its size."""


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
class FilterbankDescription:
    """The mel filterbank that is embedded.

    Attributes:
        n_mels, n_freqs: its extents.
        largest_difference: to Slaney's formula, which is what Earshot computes with.
    """

    n_mels: int
    n_freqs: int
    largest_difference: float


@dataclasses.dataclass(frozen=True, slots=True)
class ChecksumDescription:
    """A CRC32 that the file carries, in hexadecimal."""

    file: str
    covers: str
    stored: str
    computed: str
    holds: bool


@dataclasses.dataclass(frozen=True, slots=True)
class ModelDescription:
    """Everything that `earshot inspect` shows.

    Attributes:
        name, format, source: of the file.
        dims: the fields of `WhisperConfig`, empty if this is no Whisper.
        parameters: part of the model -> numbers in the file; "total" is their sum. The LM head is
            counted with the token embedding, which it is unless it has weights of its own.
        nbytes: bytes of all tensors in the file.
        tensors: in the order of the file.
        tokenizer: the vocabulary in short.
        metadata: what the file says beside its tensors; long values by their size.
        filterbank: the embedded one.
        checksums: those that the file carries.
        remarks: what is missing, assumed or contradictory.
    """

    name: str
    format: str
    source: str
    dims: dict[str, int]
    parameters: dict[str, int]
    nbytes: int
    tensors: tuple[TensorDescription, ...]
    tokenizer: TokenizerDescription | None
    metadata: dict[str, Any]
    filterbank: FilterbankDescription | None
    checksums: tuple[ChecksumDescription, ...]
    remarks: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """Return nested dictionaries and lists of plain values."""
        content = dataclasses.asdict(self)
        content["tensors"] = [t | {"shape": list(t["shape"])} for t in content["tensors"]]
        return content | {name: list(content[name]) for name in ("checksums", "remarks")}


def describe(model: Opened) -> ModelDescription:
    """Return what the file holds; of its bytes only checksums need them all."""
    tensors = tuple(
        TensorDescription(name, info.shape, info.encoding, info.nbytes)
        for name, info in model.tensors.infos.items()
    )
    return ModelDescription(
        name=model.name,
        format=str(model.format),
        source=model.source,
        dims={} if model.config is None else dataclasses.asdict(model.config),
        parameters=_parameters(model),
        nbytes=sum(tensor.nbytes for tensor in tensors),
        tensors=tensors,
        tokenizer=None if model.tokenizer is None else _tokenizer(model.tokenizer),
        metadata=_short(model.metadata),
        filterbank=None if model.filters is None else _filterbank(model.filters),
        checksums=_checksums(model),
        remarks=tuple(remarks(model)),
    )


def remarks(model: Opened) -> list[str]:
    """Return what is missing, assumed or contradictory, as sentences."""
    found = [text for text in (model.problem, model.tokenizer_problem) if text]
    found += [f"assumed, the file does not say: {name}" for name in model.assumed]
    return found + list(model.contradictions)


_EMBEDDING = "model.decoder.embed_tokens."
_PARTS = {
    _EMBEDDING: "token embedding and LM head",
    "model.encoder.": "encoder",
    "model.decoder.": "decoder",
}


def _parameters(model: Opened) -> dict[str, int]:
    counts = dict.fromkeys(("encoder", "decoder", "token embedding and LM head"), 0)
    own_head = model.config is not None and model.config.separate_head
    parts = _PARTS | ({"proj_out.": _PARTS[_EMBEDDING]} if own_head else {})
    for hf, name in model.names.items():
        part = next((part for prefix, part in parts.items() if hf.startswith(prefix)), None)
        if part is not None:
            counts[part] += math.prod(model.tensors.infos[name].shape)
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


def _short(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata that say something; a vocabulary in it only by its length."""
    shown: dict[str, Any] = {}
    for key, value in metadata.items():
        if isinstance(value, list | dict) and len(repr(value)) > _SHOWN_CHARACTERS:
            shown[key] = f"{len(value)} entries"
        elif isinstance(value, str) and len(value) > _SHOWN_CHARACTERS:
            shown[key] = f"{len(value)} characters"
        elif value is not None:
            shown[key] = value
    return shown


def _filterbank(filters: Tensor) -> FilterbankDescription:
    n_mels, n_freqs = filters.shape
    return FilterbankDescription(n_mels, n_freqs, filterbank_difference(filters))


def filterbank_difference(filters: Tensor) -> float:
    """Return how far a filterbank, f32[n_mels 201], is from Slaney's formula at most."""
    expected = mel_filterbank(filters.shape[0])
    if expected.shape != filters.shape:
        return math.inf
    return (filters.float() - expected).abs().max().item()


def _checksums(model: Opened) -> tuple[ChecksumDescription, ...]:
    return tuple(
        ChecksumDescription(
            file_name,
            checksum.name,
            f"{checksum.stored:#010x}",
            f"{checksum.computed:#010x}",
            checksum.stored == checksum.computed,
        )
        for file_name, checksums in model.checksums().items()
        for checksum in checksums
    )
