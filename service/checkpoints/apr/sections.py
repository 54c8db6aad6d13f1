"""The two things that `.apr` files embed: a vocabulary and a mel filterbank, as bytes.

Knows nothing about tokenizers. A vocabulary is u32 tokens, u32 merges, then tokens as (u16 length,
bytes) and merges as two of these; a filterbank is u32 n_mels, u32 n_freqs, f32 [n_mels n_freqs].
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from service.checkpoints.apr.encodings import F32, decode, encode
from service.errors import CheckpointError

N_FREQS = 201
_MAX_MELS = 1024
_MAX_TOKEN_BYTES = 65_535


def read_vocabulary(path: Path, data: memoryview) -> tuple[list[bytes], list[tuple[bytes, bytes]]]:
    """Return tokens by their ids, and merges in their order.

    Raises:
        CheckpointError: if the counts or lengths do not fit the section.
    """
    if len(data) < 8:
        raise CheckpointError(f"{path}: the vocabulary has {len(data)} bytes, at least 8 expected")
    n_tokens, n_merges = struct.unpack_from("<II", data)
    if 8 + 2 * n_tokens + 4 * n_merges > len(data):
        raise CheckpointError(
            f"{path}: the vocabulary says {n_tokens} tokens and {n_merges} merges, which do not "
            f"fit into its {len(data)} bytes"
        )
    strings: list[bytes] = []
    at = 8
    for _ in range(n_tokens + 2 * n_merges):
        end = at + 2 + (struct.unpack_from("<H", data, at)[0] if at + 2 <= len(data) else 0)
        if end > len(data):
            raise CheckpointError(
                f"{path}: truncated or damaged: entry {len(strings)} of the vocabulary ends at "
                f"byte {end}, the section at {len(data)}"
            )
        strings.append(bytes(data[at + 2 : end]))
        at = end
    pairs = strings[n_tokens:]
    return strings[:n_tokens], list(zip(pairs[::2], pairs[1::2], strict=True))


def write_vocabulary(tokens: Sequence[bytes], merges: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return the section.

    Raises:
        CheckpointError: if a token is too long for its length field.
    """
    longest = max(map(len, tokens), default=0)
    if longest > _MAX_TOKEN_BYTES:
        raise CheckpointError(f"a token has {longest} bytes, .apr has room for {_MAX_TOKEN_BYTES}")
    strings: Iterable[bytes] = [*tokens, *(part for pair in merges for part in pair)]
    entries = b"".join(struct.pack("<H", len(string)) + string for string in strings)
    return struct.pack("<II", len(tokens), len(merges)) + entries


def read_filters(path: Path, data: memoryview) -> Tensor:
    """Return the filterbank, f32[n_mels n_freqs].

    Raises:
        CheckpointError: if its extents do not fit its bytes.
    """
    if len(data) < 8:
        raise CheckpointError(f"{path}: the filterbank has {len(data)} bytes, at least 8 expected")
    n_mels, n_freqs = struct.unpack_from("<II", data)
    if not 0 < n_mels <= _MAX_MELS or n_freqs != N_FREQS or len(data) != 8 + 4 * n_mels * n_freqs:
        raise CheckpointError(
            f"{path}: the filterbank says [{n_mels}, {n_freqs}] in {len(data)} bytes, expected "
            f"[n_mels, {N_FREQS}] and 8 + 4 bytes for each number"
        )
    return decode(data[8:], F32, n_mels * n_freqs).view(n_mels, n_freqs)


def write_filters(filters: Tensor) -> bytes:
    """Return the section."""
    return struct.pack("<II", *filters.shape) + bytes(encode(filters, F32))


def filters_of(path: Path, data: memoryview, shape: tuple[int, ...]) -> Tensor:
    """Return the filterbank in a pseudo-tensor, which some writers prefix with its extents.

    Raises:
        CheckpointError: if it is neither raw nor prefixed.
    """
    n = torch.Size(shape).numel()
    if len(shape) == 2 and len(data) == 4 * n and shape[1] == N_FREQS:
        return decode(data, F32, n).view(shape)
    return read_filters(path, data)
