"""Whispers as `.apr` files of both layouts. Knows nothing about where the weights come from.

Sizes follow from shapes and encodings, so tensors are written one after the other, and only one is
in memory at a time.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from torch import Tensor

from service.audio.mel import mel_filterbank
from service.checkpoints.apr import encodings as e
from service.checkpoints.apr import v1, v2
from service.checkpoints.apr.file import FILTERS, VOCABULARY
from service.checkpoints.apr.model import GENERATION_KEY
from service.checkpoints.apr.names import v1_name, v2_name
from service.checkpoints.apr.sections import write_filters
from service.checkpoints.apr.vocabulary import to_metadata, to_section
from service.checkpoints.checkpoint import Checkpoint
from service.checkpoints.hf_config import generation_to_json
from service.checkpoints.names import (
    HF_EMBEDDING,
    HF_HEAD,
    Naming,
    parameter_names,
    parameter_shapes,
)
from service.checkpoints.openai_pt import released_size
from service.checkpoints.state import parts_of
from service.errors import CheckpointError

Progress = Callable[[int], None]
"""Called with the numbers that were written since the last call."""

_SMALLEST_QUANTISED = 256
_QUANTISED = {"q8": e.Q8, "q4": e.Q4}
QUANTIZATIONS = {1: ("int8",), 2: ("f16", "q8", "q4")}
"""Layout -> what `quantize` may be."""


@dataclass(frozen=True, slots=True)
class _Planned:
    """One tensor to write; `offset` counts from the start of the data."""

    name: str
    shape: tuple[int, ...]
    encoding: e.Encoding
    offset: int

    @property
    def size(self) -> int:
        n = 1
        for extent in self.shape:
            n *= extent
        return self.encoding.size(n)


class _Summed:
    """Writes and keeps the CRC32 of everything written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._crc = 0

    def write(self, data: bytes | memoryview) -> None:
        self._crc = zlib.crc32(data, self._crc)
        self._file.write(data)

    def finish(self) -> None:
        self._file.write(struct.pack("<I", self._crc))


def write_apr(
    file: BinaryIO,
    checkpoint: Checkpoint,
    *,
    version: int = 2,
    quantize: str | None = None,
    progress: Progress = lambda _: None,
) -> None:
    """Write a whole model, with its tokenizer, filterbank and how it is decoded.

    Args:
        file: written from its beginning.
        checkpoint: any.
        version: of the layout.
        quantize: one of `QUANTIZATIONS`; None keeps the dtypes (the first layout has float32 only).
        progress: told how far it got.

    Raises:
        CheckpointError: if the layout has no such quantisation.
    """
    if quantize not in (None, *QUANTIZATIONS[version]):
        raise CheckpointError(
            f"layout {version} of .apr cannot be {quantize}, only "
            f"{' or '.join(QUANTIZATIONS[version])}"
        )
    out = _Summed(file)
    (_write_v1 if version == 1 else _write_v2)(out, checkpoint, quantize, progress)
    out.finish()


def _own_fields(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what no other writer of `.apr` has a place for."""
    return {
        GENERATION_KEY: generation_to_json(checkpoint.generation, checkpoint.tokenizer),
        "window_rounding_frames": checkpoint.config.window_rounding_frames,
    }


def _planned(
    checkpoint: Checkpoint, choose: Callable[[str, tuple[int, ...], str], e.Encoding], pad: int
) -> list[_Planned]:
    """Return the tensors in the order of `parts_of`."""
    shapes = parameter_shapes(checkpoint.config)
    planned: list[_Planned] = []
    at = 0
    for names in parameter_names(checkpoint.config):
        first, *rest = shapes[names.ours]
        shape = (first // len(names.hf), *rest)
        for name in names.hf:
            if name is not None:
                planned.append(_Planned(name, shape, choose(name, shape, names.ours), at))
                at += planned[-1].size + -planned[-1].size % pad
    return planned


def _parts(checkpoint: Checkpoint, progress: Progress) -> Iterator[Tensor]:
    for _, part in parts_of(checkpoint.state, checkpoint.config, Naming.HF):
        yield part
        progress(part.numel())


def _write_v1(
    out: _Summed, checkpoint: Checkpoint, quantize: str | None, progress: Progress
) -> None:
    c = checkpoint.config
    if c.separate_head:
        raise CheckpointError("layout 1 of .apr has no LM head but the token embedding")
    encoding = e.INT8 if quantize else e.F32
    planned = _planned(checkpoint, lambda *_: encoding, 1)
    if len(planned) > 0xFFFF:
        raise CheckpointError(f"{len(planned)} tensors, layout 1 of .apr has room for 65535")
    numbers = (
        *(c.n_vocab, c.n_audio_ctx, c.d_model, c.n_audio_head, c.n_audio_layer),
        *(c.n_text_ctx, c.d_model, c.n_text_head, c.n_text_layer, c.n_mels),
    )
    flags = v1.FLAG_VOCABULARY | v1.FLAG_FILTERS
    kind = 2 if quantize else 0
    out.write(b"APR1" + struct.pack("<H3B", 1, _model_type(checkpoint), kind, 0))
    out.write(struct.pack("<HB10I", len(planned), flags, *numbers))
    for tensor in planned:
        out.write(_v1_row(tensor))
    if quantize:
        parts = parts_of(checkpoint.state, c, Naming.HF)
        scales = [e.quantise_int8(part)[0] for _, part in parts]
        out.write(struct.pack(f"<{len(scales)}f", *scales))
    for part in _parts(checkpoint, progress):
        out.write(e.encode(e.quantise_int8(part)[1], e.I8) if quantize else e.encode(part, e.F32))
    own = json.dumps(_own_fields(checkpoint)).encode()
    for head, section in (
        (b"", to_section(checkpoint.tokenizer)),
        (b"", write_filters(mel_filterbank(c.n_mels))),
        (v1.OWN_SECTION, own),
    ):
        out.write(head + struct.pack("<I", len(section)) + section)


def _v1_row(tensor: _Planned) -> bytes:
    name = v1_name(tensor.name).encode()[: v1.STORED_NAME_BYTES]
    n = tensor.size // (tensor.encoding.block_bytes or tensor.encoding.dtype.itemsize)
    extents = (*tensor.shape, 0, 0, 0)[:4]
    fields = (tensor.offset, tensor.size, n, *extents, len(tensor.shape))
    return name.ljust(v1.NAME_BYTES, b"\0") + struct.pack("<3Q4IB7x", *fields)


def _model_type(checkpoint: Checkpoint) -> int:
    size = released_size(checkpoint.config)
    return v1.MODEL_TYPES.index(size) if size in v1.MODEL_TYPES else 0


def _write_v2(
    out: _Summed, checkpoint: Checkpoint, quantize: str | None, progress: Progress
) -> None:
    def choose(name: str, shape: tuple[int, ...], ours: str) -> e.Encoding:
        if quantize is None:
            return e.PLAIN[checkpoint.state.dtype(ours)]
        return _quantised(name, shape, quantize)

    filters = mel_filterbank(checkpoint.config.n_mels)
    vocabulary = to_section(checkpoint.tokenizer)
    embedded = [
        _Planned(FILTERS, tuple(filters.shape), e.F32, 0),
        _Planned(VOCABULARY, (len(vocabulary),), e.U8, len(_padded(e.encode(filters, e.F32)))),
    ]
    start = embedded[-1].offset + len(_padded(vocabulary))
    weights = _planned(checkpoint, choose, v2.ALIGNMENT)
    placed = [*((t, t.offset) for t in embedded), *((t, start + t.offset) for t in weights)]
    index = b"".join(
        _v2_entry(name, tensor, offset)
        for name, tensor, offset in sorted(
            ((v2_name(t.name), t, offset) for t, offset in placed), key=lambda x: x[0].encode()
        )
    )
    metadata = json.dumps(_v2_metadata(checkpoint, quantize, weights), ensure_ascii=False).encode()
    out.write(_v2_header(len(placed), len(metadata), len(index), quantize))
    for section in (metadata, index, e.encode(filters, e.F32), vocabulary):
        out.write(_padded(section))
    for tensor, part in zip(weights, _parts(checkpoint, progress), strict=True):
        out.write(e.encode(part, tensor.encoding))
        out.write(bytes(-tensor.size % v2.ALIGNMENT))


def _quantised(name: str, shape: tuple[int, ...], quantize: str) -> e.Encoding:
    """Matrices of layers shrink; vectors, convolutions and positions are few and stay float32.

    The token embedding is most of a small model, and the head of nearly every one: never less than
    8 bits.
    """
    if quantize == "f16":
        return e.F16 if len(shape) > 1 else e.F32
    n = shape[0] * (shape[1] if len(shape) > 1 else 1)
    if len(shape) != 2 or n < _SMALLEST_QUANTISED or "embed_positions" in name:
        return e.F32
    return e.Q8 if name in (HF_EMBEDDING, HF_HEAD) else _QUANTISED[quantize]


def _v2_header(n_tensors: int, n_metadata: int, n_index: int, quantize: str | None) -> bytes:
    flags = v2.FLAGS["row_major"] | v2.FLAGS["has_vocab"] | v2.FLAGS["has_filterbank"]
    if quantize in _QUANTISED:
        flags |= v2.FLAGS["quantized"]
    index_at = v2.HEADER_BYTES + n_metadata + -n_metadata % v2.ALIGNMENT
    data_at = index_at + n_index + -n_index % v2.ALIGNMENT
    fields = (b"APR\0", 2, 0, flags, n_tensors, v2.HEADER_BYTES, n_metadata, index_at, data_at)
    raw = struct.pack(v2.HEADER, *fields).ljust(v2.HEADER_BYTES, b"\0")
    crc = struct.pack("<I", v2.header_crc(raw))
    return raw[: v2.CRC_AT] + crc + raw[v2.CRC_AT + len(crc) :]


def _v2_entry(name: str, tensor: _Planned, offset: int) -> bytes:
    dtype = next(i for i in (*range(10, 256), *range(10)) if v2.IDS.get(i) is tensor.encoding)
    raw, shape = name.encode(), tensor.shape
    head = struct.pack("<H", len(raw)) + raw + struct.pack("<BB", dtype, len(shape))
    return head + struct.pack(f"<{len(shape) + 2}Q", *shape, offset, tensor.size)


def _padded(data: bytes | memoryview) -> bytes:
    return bytes(data) + bytes(-len(data) % v2.ALIGNMENT)


def _v2_metadata(
    checkpoint: Checkpoint, quantize: str | None, weights: list[_Planned]
) -> dict[str, Any]:
    c = checkpoint.config
    sizes = [tensor.size for tensor in weights]
    shrunk = {"quant_type": quantize, "bits": 4 if quantize == "q4" else 8, "symmetric": True}
    return {
        "model_type": "speech-recognition",
        "name": checkpoint.name,
        "original_format": str(checkpoint.format),
        "total_size": sum(sizes),
        "quantization": shrunk if quantize in _QUANTISED else None,
        "architecture": "whisper",
        "hidden_size": c.d_model,
        "num_layers": c.n_text_layer,
        "num_heads": c.n_text_head,
        "vocab_size": c.n_vocab,
        "intermediate_size": c.n_text_ffn,
        "n_audio_state": c.d_model,
        "n_audio_layer": c.n_audio_layer,
        "n_audio_head": c.n_audio_head,
        "n_audio_ctx": c.n_audio_ctx,
        "n_text_ctx": c.n_text_ctx,
        "n_mels": c.n_mels,
        "model_type_id": _model_type(checkpoint),
        "audio_frontend": "mel_filterbank",
        "positional_encoding": "sinusoidal",
        "model_family": "whisper",
        "tied_embeddings": not c.separate_head,
        **to_metadata(checkpoint.tokenizer),
        **_own_fields(checkpoint),
    }
