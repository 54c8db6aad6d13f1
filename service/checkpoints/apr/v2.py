"""The second `.apr` layout, Aprender's: header, JSON metadata, a sorted index, aligned data, CRC.

    header 64 | JSON | index | data, each tensor aligned to 64 | CRC32

Knows nothing about models. Where a compression flag is set and true, everything after the header is
one blob, and offsets refer to the image that it unpacks to.
"""

from __future__ import annotations

import math
import struct
import zlib
from typing import NamedTuple

import lz4.block
import zstandard
from torch import Tensor

from service.checkpoints.apr import encodings as e
from service.checkpoints.apr.file import (
    FILTERS,
    VOCABULARY,
    AprFile,
    AprTensor,
    Checksum,
    check_places,
    check_shape,
)
from service.checkpoints.apr.image import Image
from service.checkpoints.apr.metadata import read_object
from service.checkpoints.apr.sections import N_FREQS, filters_of
from service.errors import CheckpointError

HEADER_BYTES = 64
HEADER = "<4sBBHIQIQQ"
CRC_AT = 40
ALIGNMENT = 64
FLAGS = {
    "lz4": 0x001,
    "zstd": 0x002,
    "encrypted": 0x004,
    "signed": 0x008,
    "sharded": 0x010,
    "quantized": 0x020,
    "has_filterbank": 0x040,
    "has_model_card": 0x080,
    "streaming": 0x100,
    "has_vocab": 0x200,
    "row_major": 0x400,
    "column_major": 0x800,
}
_COMPRESSED = FLAGS["lz4"] | FLAGS["zstd"]
_MAX_MAJOR = 2
_MAX_NAME_BYTES = 256
_MAX_DIMS = 8
_SMALLEST_ENTRY = 2 + 2 + 16
_MAX_RATIO = 16
"""Weights compress by less; what unpacks to more is a bomb."""

BF16_OLD_ID = 2
IDS = {
    0: e.F32, 1: e.F16, 3: e.F64, 4: e.I32, 5: e.I64, 6: e.I8, 7: e.U8, 8: e.Q4, 9: e.Q8,
    12: e.Q4_K, 14: e.Q6_K, 30: e.BF16, 128: e.Q4, 129: e.Q8,
}  # fmt: skip
"""The dtype byte, of both generations; 2 is BF16 or Q4_0, told apart by the size."""


class _Header(NamedTuple):
    """The fields of the first 40 bytes."""

    magic: bytes
    major: int
    minor: int
    flags: int
    tensor_count: int
    metadata_offset: int
    metadata_size: int
    index_offset: int
    data_offset: int


def read_v2(image: Image) -> AprFile:
    """Read header, metadata, index and pseudo-tensors.

    Raises:
        CheckpointError: naming the field, what it says, and what it may be.
    """
    raw = bytes(image.view(0, HEADER_BYTES, "the header"))
    header = _Header(*struct.unpack_from(HEADER, raw))
    _refuse_flags(image, header)
    if header.flags & _COMPRESSED and not _is_plain(image, header):
        image = _unpacked(image, header)
    _check_header(image, header)
    metadata = read_object(
        image.path, image.view(header.metadata_offset, header.metadata_size, "the metadata")
    )
    tensors = _read_index(image, header)
    check_places(image, tensors, header.data_offset, len(image) - 4)
    by_name = {tensor.name: tensor for tensor in tensors}
    (stored,) = struct.unpack_from("<I", raw, CRC_AT)
    return AprFile(
        image,
        2,
        by_name,
        metadata,
        flags={name: bool(header.flags & bit) for name, bit in FLAGS.items()},
        vocabulary=_pseudo(image, by_name.get(VOCABULARY)),
        filters=_filters(image, by_name.get(FILTERS)),
        header_crc=Checksum("header", stored, header_crc(raw)),
    )


def header_crc(raw: bytes) -> int:
    """Return the CRC32 of a header, without the four bytes where it stands."""
    return zlib.crc32(raw[CRC_AT + 4 : HEADER_BYTES], zlib.crc32(raw[:CRC_AT]))


def _refuse_flags(image: Image, header: _Header) -> None:
    if header.major > _MAX_MAJOR:
        raise CheckpointError(
            f"{image.path}: version is {header.major}.{header.minor}, expected at most 2"
        )
    for name, what in (
        ("encrypted", "its content is encrypted"),
        ("column_major", "its matrices are column-major, expected row-major [out, in]"),
    ):
        if header.flags & FLAGS[name]:
            raise CheckpointError(f"{image.path}: flags are {header.flags:#06x}: {what}")


def _is_plain(image: Image, header: _Header) -> bool:
    """Whether the flag lies: Aprender's writer sets it and does not compress."""
    at = header.metadata_offset
    return at < len(image) and bytes(image.view(at, 1, "the metadata")) == b"{"


def _unpacked(image: Image, header: _Header) -> Image:
    """Return the image with everything after its header unpacked."""
    blob = image.view(HEADER_BYTES, len(image) - HEADER_BYTES, "the compressed content")
    limit = _MAX_RATIO * len(image) + (1 << 20)
    try:
        if header.flags & FLAGS["lz4"]:
            rest = _lz4(image, blob, limit)
        else:
            rest = _zstd(image, blob, limit)
    except (lz4.block.LZ4BlockError, zstandard.ZstdError, struct.error, MemoryError) as error:
        raise CheckpointError(
            f"{image.path}: its compressed content is damaged: {error}"
        ) from error
    return Image(image.path, memoryview(rest))


def _lz4(image: Image, blob: memoryview, limit: int) -> bytearray:
    (size,) = struct.unpack_from("<I", blob)
    _check_unpacked(image, size, limit)
    rest: bytearray = lz4.block.decompress(blob[4:], uncompressed_size=size, return_bytearray=True)
    rest[:0] = image.view(0, HEADER_BYTES, "the header")  # no second copy of what is large
    return rest


def _zstd(image: Image, blob: memoryview, limit: int) -> bytearray:
    rest = bytearray(image.view(0, HEADER_BYTES, "the header"))
    for piece in zstandard.ZstdDecompressor(max_window_size=1 << 27).read_to_iter(blob):
        rest += piece
        _check_unpacked(image, len(rest), limit)
    return rest


def _check_unpacked(image: Image, size: int, limit: int) -> None:
    if size > limit:
        raise CheckpointError(
            f"{image.path}: its content unpacks to {size} bytes or more, at most {_MAX_RATIO} "
            f"times the file ({limit} bytes) is taken for weights"
        )


def _check_header(image: Image, header: _Header) -> None:
    """Refuse sections that are out of order or beyond the end."""
    end = len(image) - 4
    limits = (
        ("metadata_offset", header.metadata_offset, HEADER_BYTES, end),
        ("metadata_size", header.metadata_size, 0, end - header.metadata_offset),
        (
            "tensor_index_offset",
            header.index_offset,
            header.metadata_offset + header.metadata_size,
            end,
        ),
        ("data_offset", header.data_offset, header.index_offset, end),
        (
            "tensor_count",
            header.tensor_count,
            0,
            (header.data_offset - header.index_offset) // _SMALLEST_ENTRY,
        ),
    )
    for name, value, least, most in limits:
        if not least <= value <= most:
            raise CheckpointError(
                f"{image.path}: truncated or damaged: {name} is {value}, expected {least} to "
                f"{most} in a file of {len(image)} bytes"
            )


def _read_index(image: Image, header: _Header) -> list[AprTensor]:
    tensors: list[AprTensor] = []
    at = header.index_offset
    for i in range(header.tensor_count):
        tensor, at = _entry(image, at, i, header.data_offset)
        if at > header.data_offset:
            raise CheckpointError(
                f"{image.path}: truncated or damaged: the index reaches byte {at}, its data begin "
                f"at {header.data_offset}"
            )
        if tensors and tensor.name.encode() < tensors[-1].name.encode():
            raise CheckpointError(
                f"{image.path}: the index is not sorted: {tensor.name} after {tensors[-1].name}"
            )
        tensors.append(tensor)
    return tensors


def _entry(image: Image, at: int, i: int, data_offset: int) -> tuple[AprTensor, int]:
    what = f"entry {i} of the index"
    (length,) = image.unpack("H", at, what)
    if not 1 <= length <= _MAX_NAME_BYTES:
        raise CheckpointError(
            f"{image.path}: the name in {what} has {length} bytes, expected 1 to 256"
        )
    name = image.text(at + 2, length, f"the name in {what}")
    at += 2 + length
    dtype, n_dims = image.unpack("BB", at, what)
    if n_dims > _MAX_DIMS:
        raise CheckpointError(f"{image.path}: ndim of {name} is {n_dims}, expected at most 8")
    *shape, offset, size = image.unpack(f"{n_dims + 2}Q", at + 2, what)
    check_shape(image, name, tuple(shape))
    encoding = _encoding(image, name, dtype, tuple(shape), size)
    end = at + 2 + 8 * (n_dims + 2)
    return AprTensor(name, tuple(shape), encoding, data_offset + offset, size), end


def _encoding(image: Image, name: str, dtype: int, shape: tuple[int, ...], size: int) -> e.Encoding:
    """Return what the dtype byte and the size say, if they agree."""
    n = math.prod(shape)
    candidates = (e.BF16, e.Q4_0) if dtype == BF16_OLD_ID else (IDS.get(dtype),)
    known = [candidate for candidate in candidates if candidate is not None]
    if not known:
        raise CheckpointError(
            f"{image.path}: dtype of {name} is {dtype}, expected one of "
            f"{', '.join(map(str, sorted({*IDS, BF16_OLD_ID})))}"
        )
    for encoding in known:
        if encoding.size(n) == size:
            return encoding
    if name == FILTERS and known[0] is e.F32 and size == 8 + 4 * n:  # with its extents before it
        return e.F32
    raise CheckpointError(
        f"{image.path}: size of {name} is {size}, expected {known[0].size(n)} for {list(shape)} "
        f"in {known[0].name}"
    )


def _pseudo(image: Image, tensor: AprTensor | None) -> memoryview | None:
    return image.view(tensor.offset, tensor.size, tensor.name) if tensor else None


def _filters(image: Image, tensor: AprTensor | None) -> Tensor | None:
    data = _pseudo(image, tensor)
    if tensor is None or data is None:
        return None
    if tensor.encoding is not e.F32 and tensor.encoding.readable:
        if len(tensor.shape) != 2 or tensor.shape[1] != N_FREQS:
            raise CheckpointError(
                f"{image.path}: {FILTERS} is {list(tensor.shape)}, expected [n_mels, {N_FREQS}]"
            )
        return e.decode(data, tensor.encoding, tensor.n).float().view(tensor.shape)
    return filters_of(image.path, data, tensor.shape)
