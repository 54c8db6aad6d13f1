"""`.apr` files byte by byte, made without the code under test, so that they can lie at will."""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

ROW_MAJOR = 0x400
WHISPER = {"model_type": "speech-recognition", "architecture": "whisper", "rms_norm_eps": 1e-6}


def align(data: bytes) -> bytes:
    return data + bytes(-len(data) % 64)


def f32(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def with_crc(content: bytes) -> bytes:
    """Put the checksum at the end in order."""
    return content + struct.pack("<I", zlib.crc32(content))


def header_crc(header: bytes) -> bytes:
    """Put the checksum of a second-layout header in order."""
    crc = zlib.crc32(header[:40] + header[44:64])
    return header[:40] + struct.pack("<I", crc) + header[44:64]


def repaired(content: bytes) -> bytes:
    """Put all checksums in order, after bytes were changed."""
    body = content[:-4]
    if body[:4] != b"APR1" and len(body) >= 64:
        body = header_crc(body[:64]) + body[64:]
    return with_crc(body)


@dataclass
class V2:
    """A file of the second layout; each field may be made wrong before `build`.

    `tensors`: name -> (shape, dtype byte, data).
    """

    tensors: dict[str, Any]
    metadata: Mapping[str, Any] = field(default_factory=lambda: dict(WHISPER))
    flags: int = ROW_MAJOR
    magic: bytes = b"APR\0"
    major: int = 2
    header: dict[str, int] = field(default_factory=dict)
    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    order: Sequence[str] | None = None
    raw_metadata: bytes | None = None

    def build(self) -> bytes:
        metadata = self.raw_metadata or json.dumps(self.metadata).encode()
        data, places = b"", {}
        for name, (_, _, content) in self.tensors.items():  # not sorted: the index is
            places[name] = len(data)
            data += align(content)
        index = b""
        for name in self.order or sorted(self.tensors, key=str.encode):
            shape, dtype, content = self.tensors[name]
            entry = {"name": name.encode(), "dtype": dtype, "shape": shape, "size": len(content)}
            entry |= {"offset": places[name]} | self.entries.get(name, {})
            index += struct.pack("<H", len(entry["name"])) + entry["name"]
            index += struct.pack("<BB", entry["dtype"], len(entry["shape"]))
            index += struct.pack(f"<{len(entry['shape'])}Q", *entry["shape"])
            index += struct.pack("<QQ", entry["offset"], entry["size"])
        index_at = 64 + len(align(metadata))
        fields = {
            "count": len(self.tensors),
            "metadata_offset": 64,
            "metadata_size": len(metadata),
            "index_offset": index_at,
            "data_offset": index_at + len(align(index)),
        } | self.header
        head = struct.pack("<4sBBHIQIQQ", self.magic, self.major, 0, self.flags, *fields.values())
        head = header_crc(head + bytes(24))
        return with_crc(head + align(metadata) + align(index) + data)


@dataclass
class V1:
    """A file of the first layout."""

    tensors: Mapping[str, tuple[Sequence[int], bytes]]
    numbers: Mapping[str, int]
    quantization: int = 0
    scales: Sequence[float] = ()
    vocabulary: bytes | None = None
    filters: bytes | None = None
    version: int = 1
    compressed: int = 0
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)

    def build(self) -> bytes:
        flags = (self.vocabulary is not None) | 2 * (self.filters is not None)
        content = struct.pack(
            "<4sH3BHB10I", b"APR1", self.version, 0, self.quantization, self.compressed,
            len(self.tensors), flags, *self.numbers.values(),
        )  # fmt: skip
        at = 0
        for name, (shape, data) in self.tensors.items():
            row: dict[str, Any] = {"shape": shape, "size": len(data), "offset": at}
            row |= {"n": math.prod(shape), "n_dims": len(shape)} | self.rows.get(name, {})
            extents = (*row["shape"], 0, 0, 0, 0)[:4]
            content += name.encode()[:47].ljust(48, b"\0")
            content += struct.pack("<3Q4IB7x", row["offset"], row["size"], row["n"], *extents,
                                   row["n_dims"])  # fmt: skip
            at += len(data)
        content += f32(*self.scales)
        content += b"".join(data for _, data in self.tensors.values())
        for section in (self.vocabulary, self.filters):
            if section is not None:
                content += struct.pack("<I", len(section)) + section
        return with_crc(content)


def vocabulary_section(
    tokens: Sequence[bytes], merges: Sequence[tuple[bytes, bytes]] = ()
) -> bytes:
    strings = [*tokens, *(part for pair in merges for part in pair)]
    body = b"".join(struct.pack("<H", len(text)) + text for text in strings)
    return struct.pack("<II", len(tokens), len(merges)) + body
