"""What is wrong with a model file, tensor by tensor. Knows nothing about formats.

Checksums, tensors that are missing, too many or of the wrong shape, numbers that are not finite,
matrices that are all zero or constant, the filterbank, the vocabulary.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from service.errors import ServiceError
from service.inspection.describe import filterbank_difference
from service.inspection.listing import Watch
from service.inspection.opened import Opened
from service.inspection.stats import TensorStats, measure
from service.model.config import WhisperConfig
from service.text.tokenizer import WhisperTokenizer

FILTER_TOLERANCE = 1e-6
"""OpenAI's own filters differ from the formula by 2e-9."""
_TEXTS = ("zero one two", " It's 3 o'clock.", " ümläut, 日本語, \U0001f600", "  \n\t")
_HEAD = "proj_out.weight"
_KEY_BIAS = "k_proj.bias"


class Severity(enum.StrEnum):
    """Whether the file can be relied on in spite of it."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        severity: an error makes the file invalid.
        check: `checksum`, `contract`, `metadata`, `numbers`, `filterbank` or `tokenizer`.
        tensor: the file's name of the tensor at fault.
        message: a sentence.
    """

    severity: Severity
    check: str
    tensor: str | None
    message: str


@dataclass(frozen=True, slots=True)
class Report:
    """What `earshot validate` says."""

    file: str
    format: str
    tensors_checked: int
    findings: tuple[Finding, ...]

    @property
    def valid(self) -> bool:
        """Whether nothing is an error."""
        return not any(finding.severity is Severity.ERROR for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "file": self.file,
            "format": self.format,
            "valid": self.valid,
            "tensors_checked": self.tensors_checked,
            "findings": [asdict(finding) for finding in self.findings],
        }


def validate(model: Opened, *, watch: Watch = iter) -> Report:
    """Check everything, reading every weight once.

    Args:
        model: an open file.
        watch: for a progress bar.
    """
    findings = [
        *_checksums(model),
        *_contract(model),
        *_numbers(model, watch),
        *_filterbank(model),
        *_tokenizer(model),
    ]
    n_tensors = len(model.tensors.infos)
    return Report(model.source, str(model.format), n_tensors, tuple(findings))


def _error(check: str, message: str, tensor: str | None = None) -> Finding:
    return Finding(Severity.ERROR, check, tensor, message)


def _checksums(model: Opened) -> Iterator[Finding]:
    for file_name, checksums in model.checksums().items():
        for checksum in checksums:
            if checksum.stored != checksum.computed:
                yield _error(
                    "checksum",
                    f"{file_name}: the CRC32 of the {checksum.name} is {checksum.computed:#010x}, "
                    f"the file says {checksum.stored:#010x}",
                )


def _contract(model: Opened) -> Iterator[Finding]:
    if model.config is None:
        yield _error("contract", model.problem or "this is no Whisper")
        return
    for sentence in model.contradictions:
        yield _error("metadata", sentence)
    expected = contract(model.config)
    for hf, shape in expected.items():
        if hf not in model.names:
            yield _error("contract", f"{hf.removeprefix('model.')} is missing")
            continue
        name = model.names[hf]
        found = model.tensors.infos[name].shape
        if found != shape:
            yield _error("contract", f"expected {list(shape)}, found {list(found)}", name)
    for hf, name in model.names.items():
        if hf not in expected and hf != _HEAD:
            yield _error("contract", "Whisper has no such tensor", name)


def contract(config: WhisperConfig) -> dict[str, tuple[int, ...]]:
    """Return the tensors that a Whisper has, by Hugging Face's names."""
    d = config.d_model
    shapes: dict[str, tuple[int, ...]] = {
        "model.encoder.conv1.weight": (d, config.n_mels, 3),
        "model.encoder.conv1.bias": (d,),
        "model.encoder.conv2.weight": (d, d, 3),
        "model.encoder.conv2.bias": (d,),
        "model.encoder.embed_positions.weight": (config.n_audio_ctx, d),
        "model.decoder.embed_tokens.weight": (config.n_vocab, d),
        "model.decoder.embed_positions.weight": (config.n_text_ctx, d),
    }
    if config.separate_head:
        shapes[_HEAD] = (config.n_vocab, d)
    halves = (
        ("encoder", config.n_audio_layer, config.n_audio_ffn, ("self_attn",)),
        ("decoder", config.n_text_layer, config.n_text_ffn, ("self_attn", "encoder_attn")),
    )
    for half, depth, ffn, attentions in halves:
        shapes |= _module(f"model.{half}.layer_norm", d)
        for layer in range(depth):
            at = f"model.{half}.layers.{layer}"
            shapes |= _module(f"{at}.fc1", ffn, d) | _module(f"{at}.fc2", d, ffn)
            shapes |= _module(f"{at}.final_layer_norm", d)
            for attention in attentions:
                shapes |= _module(f"{at}.{attention}_layer_norm", d)
                for part in ("q", "k", "v", "out"):
                    shapes |= _module(f"{at}.{attention}.{part}_proj", d, d)
    return {name: shape for name, shape in shapes.items() if not name.endswith(_KEY_BIAS)}


def _module(at: str, *weight: int) -> dict[str, tuple[int, ...]]:
    return {f"{at}.weight": weight, f"{at}.bias": weight[:1]}


def _numbers(model: Opened, watch: Watch) -> Iterator[Finding]:
    for name in watch([name for name in model.tensors.infos if not name.startswith("__")]):
        try:
            stats = measure(model.tensors.read(name))
        except ServiceError as error:
            yield _error("numbers", error.message, name)
            continue
        for message in _complaints(stats, len(model.tensors.infos[name].shape)):
            yield _error("numbers", message, name)


def _complaints(stats: TensorStats, n_dims: int) -> Iterable[str]:
    """Return what is wrong with a tensor; a vector may well be constant, or zero."""
    if stats.nan_count:
        yield f"{stats.nan_count} NaN"
    if stats.inf_count:
        yield f"{stats.inf_count} infinite numbers"
    if n_dims < 2 or stats.min is None or stats.min != stats.max:
        return
    yield "all numbers are zero" if stats.max == 0 else f"all numbers are {stats.max:g}"


def _filterbank(model: Opened) -> Iterator[Finding]:
    if model.filters is None:
        return
    difference = filterbank_difference(model.filters)
    if not difference <= FILTER_TOLERANCE:
        yield _error(
            "filterbank",
            f"differs from Slaney's formula by {difference:.3g}, at most {FILTER_TOLERANCE:g} "
            "expected",
        )
    if model.config is not None and model.filters.shape[0] != model.config.n_mels:
        yield _error(
            "filterbank", f"{model.filters.shape[0]} mels, the model takes {model.config.n_mels}"
        )


def _tokenizer(model: Opened) -> Iterator[Finding]:
    tokenizer = model.tokenizer
    if tokenizer is None:
        sentence = model.tokenizer_problem or "the file holds no tokenizer"
        absent = "holds no tokenizer" in sentence
        severity = Severity.WARNING if absent else Severity.ERROR
        yield Finding(severity, "tokenizer", None, sentence)
        return
    if model.config is not None and tokenizer.n_vocab > model.config.n_vocab:
        yield _error(
            "tokenizer", f"{tokenizer.n_vocab} tokens, the model has {model.config.n_vocab}"
        )
    yield from _round_trips(tokenizer)


def _round_trips(tokenizer: WhisperTokenizer) -> Iterator[Finding]:
    for text in _TEXTS:
        back = tokenizer.decode(tokenizer.encode(text))
        if back != text:
            yield _error("tokenizer", f"{text!r} comes back as {back!r}")
