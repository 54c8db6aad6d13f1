"""A bounds-checked parser for PCM and float WAV: the one format that is read in this process.

Knows nothing about other formats, rates or limits. Lengths in a WAV header are often lies (a
recorder that was killed, a stream of unknown length), so they are bounds and not promises: the
audio is what is there.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidAudio

_PCM, _FLOAT, _EXTENSIBLE = 0x0001, 0x0003, 0xFFFE
_EXTENSIBLE_GUID = bytes.fromhex("000000001000800000aa00389b71")
"""What follows the format tag in the sub-format of WAVE_FORMAT_EXTENSIBLE."""
_CHUNK_HEADER_BYTES = 8
_FIRST_CHUNK = 12
_MAX_CHUNKS = 10_000
_BLOCK_FRAMES = 1 << 18
"""Frames that are converted at once, so that the work needs little more than its result."""


@dataclass(frozen=True, slots=True)
class WavFormat:
    """What the header says.

    Attributes:
        is_float: IEEE floats; otherwise integers, unsigned if one byte wide.
        is_readable: whether `read_samples` can read it (16-bit A-law, say, it cannot).
        sample_rate: Hz.
        n_channels: at least 1.
        sample_bytes: bytes of one sample of one channel, with its padding.
        data_start, data_bytes: where the samples are; whole frames, all of them inside the file.
    """

    is_float: bool
    is_readable: bool
    sample_rate: int
    n_channels: int
    sample_bytes: int
    data_start: int
    data_bytes: int

    @property
    def n_frames(self) -> int:
        """Samples of each channel."""
        return self.data_bytes // (self.sample_bytes * self.n_channels)


def is_wav(data: bytes) -> bool:
    """Whether these are the first bytes of a little-endian WAV file."""
    return data[:4] == b"RIFF" and data[8:12] == b"WAVE"


def parse(data: bytes) -> WavFormat:
    """Return what the header of a WAV file says, checked against the bytes that are there.

    A data chunk that claims more than there is, or nothing, or an unknown size (0xFFFFFFFF, as
    streams do), extends to the end of the file; a last incomplete frame is cut off.

    Raises:
        InvalidAudio: if there is no format or no data, or they contradict each other.
    """
    fmt: tuple[int, int] | None = None
    for name, start, size in _chunks(data):
        available = len(data) - start
        if name == b"fmt " and fmt is None:
            fmt = start, min(size, available)
        elif name == b"data":
            if fmt is None:
                raise InvalidAudio("The WAV file has no 'fmt ' chunk before its data.")
            is_a_lie = size > available or (size == 0 and not _only_chunks(data, start))
            data_bytes = available if is_a_lie else size
            return _format(data[fmt[0] : fmt[0] + fmt[1]], start, data_bytes)
    raise InvalidAudio(f"The WAV file of {len(data)} bytes has no 'data' chunk.")


def _chunks(data: bytes, position: int = _FIRST_CHUNK) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, start, claimed size) of the chunks that begin inside the file.

    A chunk of odd size is followed by a zero byte, which some writers forget; no name begins with
    one.
    """
    for _ in range(_MAX_CHUNKS):
        if position + _CHUNK_HEADER_BYTES > len(data):
            return
        name = data[position : position + 4]
        (size,) = struct.unpack_from("<I", data, position + 4)
        position += _CHUNK_HEADER_BYTES
        yield name, position, size
        position += size
        if size % 2 and data[position : position + 1] == b"\0":
            position += 1
    raise InvalidAudio(f"The WAV file has more than {_MAX_CHUNKS} chunks before its data.")


def _only_chunks(data: bytes, position: int) -> bool:
    """Whether the rest is nothing, or chunks that end where the file ends: no samples."""
    end = position
    for name, start, size in _chunks(data, position):
        if not (name.isascii() and name.decode().isprintable()):
            return False
        end = start + size
    return len(data) - 1 <= end <= len(data)


def _format(fmt: bytes, data_start: int, data_bytes: int) -> WavFormat:
    if len(fmt) < 16:
        raise InvalidAudio(f"The WAV file's 'fmt ' chunk has {len(fmt)} bytes; it needs 16.")
    tag, n_channels, sample_rate, _, block_bytes, bits = struct.unpack_from("<HHIIHH", fmt)
    if tag == _EXTENSIBLE and len(fmt) >= 40 and fmt[26:40] == _EXTENSIBLE_GUID:
        (tag,) = struct.unpack_from("<H", fmt, 24)
    if n_channels < 1:
        raise InvalidAudio("The WAV file has 0 channels.")
    sample_bytes = -(-bits // 8)
    if tag in (_PCM, _FLOAT):
        sample_bytes = _sample_bytes(bits, block_bytes, n_channels)
    widths = {_PCM: (1, 2, 3, 4), _FLOAT: (4, 8)}.get(tag, ())
    frame_bytes = max(1, sample_bytes * n_channels)
    return WavFormat(
        is_float=tag == _FLOAT,
        is_readable=sample_bytes in widths,
        sample_rate=sample_rate,
        n_channels=n_channels,
        sample_bytes=max(1, sample_bytes),
        data_start=data_start,
        data_bytes=data_bytes - data_bytes % frame_bytes,
    )


def _sample_bytes(bits: int, block_bytes: int, n_channels: int) -> int:
    """Return the width of a sample, which may be padded (24 bits in 4 bytes, left-justified)."""
    needed = -(-bits // 8)
    width, rest = divmod(block_bytes, n_channels)
    if bits < 1 or rest or not needed <= width <= 8:
        raise InvalidAudio(
            f"The WAV file claims {bits} bits a sample and {n_channels} channels in frames of "
            f"{block_bytes} bytes."
        )
    return width


def read_samples(data: bytes, wav: WavFormat) -> NDArray[np.float32]:
    """Return the samples, the channels mixed by their mean, clipped to [-1, 1].

    Shapes: -> f32[n_frames] at the file's own rate.

    Raises:
        InvalidAudio: if a float sample is NaN or infinite.
    """
    mono = np.empty(wav.n_frames, dtype=np.float32)
    frame_bytes = wav.sample_bytes * wav.n_channels
    view = memoryview(data)[wav.data_start : wav.data_start + wav.data_bytes]
    for first in range(0, wav.n_frames, _BLOCK_FRAMES):
        block = view[first * frame_bytes : (first + _BLOCK_FRAMES) * frame_bytes]
        frames = _to_float(block, wav).reshape(-1, wav.n_channels)
        with np.errstate(all="ignore"):  # what is not finite is found below
            mixed = frames.mean(axis=1, dtype=np.float64)
        finite = np.isfinite(mixed)
        if not finite.all():
            at = first + int(np.argmin(finite))
            raise InvalidAudio(f"Sample {at} of the WAV file is not a finite number.")
        mono[first : first + len(mixed)] = mixed.clip(-1.0, 1.0)
    return mono


def _to_float(block: memoryview, wav: WavFormat) -> NDArray[np.float32] | NDArray[np.float64]:
    """Return samples of all channels as they lie, scaled to full scale 1."""
    if wav.is_float:
        return np.frombuffer(block, dtype=f"<f{wav.sample_bytes}")
    if wav.sample_bytes == 1:
        return (np.frombuffer(block, dtype=np.uint8) - np.float32(128)) / np.float32(128)
    if wav.sample_bytes == 3:
        packed = np.frombuffer(block, dtype=np.uint8).reshape(-1, 3)
        padded = np.zeros((len(packed), 4), dtype=np.uint8)
        padded[:, 1:] = packed
        return padded.reshape(-1).view("<i4").astype(np.float64) / 2.0**31
    integers = np.frombuffer(block, dtype=f"<i{wav.sample_bytes}")
    return integers.astype(np.float64) / 2.0 ** (8 * wav.sample_bytes - 1)
