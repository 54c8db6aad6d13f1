"""The first `.apr` layout, "APR1": a binary header, rows of 96 bytes, packed data, sections, CRC.

    magic | header 48 | rows 96*n | int8: scales 4*n | data | [vocabulary] | [filterbank] | [own]
    | CRC32

Knows nothing about models. Nothing is aligned. Earshot's own section, JSON after `OWN_SECTION` and
a u32 length, holds what the header has no field for; other readers pass over it.
"""

from __future__ import annotations

import math
from typing import Any

from service.checkpoints.apr.encodings import F16, F32, INT8, Encoding
from service.checkpoints.apr.file import AprFile, AprTensor, check_places, check_shape
from service.checkpoints.apr.image import Image
from service.checkpoints.apr.metadata import read_object
from service.checkpoints.apr.sections import read_filters
from service.errors import CheckpointError

HEADER_END = 52
ROW_BYTES = 96
NAME_BYTES = 48
STORED_NAME_BYTES = NAME_BYTES - 1
"""The writer keeps the first 47 bytes of a name and a NUL."""
FLAG_VOCABULARY = 1
FLAG_FILTERS = 2
OWN_SECTION = b"EARSHOT\0"
MODEL_TYPES = (
    *("tiny", "tiny.en", "base", "base.en", "small", "small.en", "medium", "medium.en"),
    *("large", "large-v1", "large-v2", "large-v3"),
)
HEADER_FIELDS = (
    *("n_vocab", "n_audio_ctx", "n_audio_state", "n_audio_head", "n_audio_layer"),
    *("n_text_ctx", "n_text_state", "n_text_head", "n_text_layer", "n_mels"),
)
_ENCODINGS: tuple[Encoding, ...] = (F32, F16, INT8)
_QUANT_INT4 = 3
_MAX_DIMS = 4


def read_v1(image: Image) -> AprFile:
    """Read header, rows and sections.

    Raises:
        CheckpointError: naming the field, what it says, and what it may be.
    """
    version, model_type, quantization, compressed = image.unpack("H3B", 4, "the header")
    n_tensors, flags, *numbers = image.unpack("HB10I", 9, "the header")
    encoding = _encoding(image, version, quantization, compressed)
    end_of_rows = HEADER_END + ROW_BYTES * n_tensors
    start = end_of_rows + (4 * n_tensors if encoding is INT8 else 0)
    scales = image.unpack(f"{n_tensors}f", end_of_rows, "the scales") if encoding is INT8 else None
    tensors = [
        _row(image, HEADER_END + ROW_BYTES * i, encoding, start, scales[i] if scales else None)
        for i in range(n_tensors)
    ]
    end = len(image) - 4
    check_places(image, tensors, start, end)
    metadata: dict[str, Any] = dict(zip(HEADER_FIELDS, numbers, strict=True))
    metadata["model_type"] = MODEL_TYPES[model_type] if model_type < len(MODEL_TYPES) else "tiny"
    at = start + sum(tensor.size for tensor in tensors)
    vocabulary = filters = None
    if flags & FLAG_VOCABULARY:
        vocabulary, at = _section(image, at, end, "the vocabulary")
    if flags & FLAG_FILTERS:
        section, at = _section(image, at, end, "the filterbank")
        filters = read_filters(image.path, section)
    if bytes(image.view(at, min(len(OWN_SECTION), end - at), "a section")) == OWN_SECTION:
        section, at = _section(image, at + len(OWN_SECTION), end, "Earshot's section")
        metadata |= read_object(image.path, section)
    return AprFile(
        image,
        1,
        {tensor.name: tensor for tensor in tensors},
        metadata,
        vocabulary=vocabulary,
        filters=filters,
    )


def _encoding(image: Image, version: int, quantization: int, compressed: int) -> Encoding:
    """Return the one encoding of the file, or say why it cannot be read."""
    if len(image) > 8 and bytes(image.view(8, 1, "the header")) == b"{":
        raise CheckpointError(
            f"{image.path}: APR1 with a JSON index, an old layout of Aprender that Earshot does "
            "not read; expected a binary header"
        )
    if version > 1:
        raise CheckpointError(f"{image.path}: version is {version}, expected 0 or 1")
    if compressed:
        raise CheckpointError(
            f"{image.path}: compressed is {compressed}, expected 0: no writer ever compressed "
            "this layout, so how is not known"
        )
    if quantization == _QUANT_INT4:
        raise CheckpointError(
            f"{image.path}: quantization is 3 (int4), whose packing nobody defined; expected "
            "0 (f32), 1 (f16) or 2 (int8)"
        )
    if quantization >= len(_ENCODINGS):
        raise CheckpointError(
            f"{image.path}: quantization is {quantization}, expected 0 (f32), 1 (f16) or 2 (int8)"
        )
    return _ENCODINGS[quantization]


def _row(image: Image, at: int, encoding: Encoding, start: int, scale: float | None) -> AprTensor:
    what = f"the row of a tensor at byte {at}"
    stored = bytes(image.view(at, NAME_BYTES, what)).split(b"\0")[0]
    name = image.text(at, len(stored), f"the name in {what}")
    offset, size, n, *extents, n_dims = image.unpack("3Q4IB", at + NAME_BYTES, what)
    if n_dims > _MAX_DIMS:
        raise CheckpointError(f"{image.path}: n_dims of {name} is {n_dims}, expected at most 4")
    shape = tuple(extents[:n_dims])
    check_shape(image, name, shape)
    if math.prod(shape) != n:
        raise CheckpointError(
            f"{image.path}: n_elements of {name} is {n}, its shape {list(shape)} has "
            f"{math.prod(shape)}"
        )
    if size != encoding.size(n):
        raise CheckpointError(
            f"{image.path}: size of {name} is {size}, expected {encoding.size(n)} for "
            f"{list(shape)} in {encoding.name}"
        )
    return AprTensor(name, shape, encoding, start + offset, size, scale)


def _section(image: Image, at: int, end: int, what: str) -> tuple[memoryview, int]:
    """Return a section that begins with its length, and where the next one begins."""
    (size,) = image.unpack("I", at, f"the length of {what}")
    if at + 4 + size > end:
        raise CheckpointError(
            f"{image.path}: truncated or damaged: {what} at byte {at} says that it has {size} "
            f"bytes, at most {max(end - at - 4, 0)} are left"
        )
    return image.view(at + 4, size, what), at + 4 + size
