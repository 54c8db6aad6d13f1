from __future__ import annotations

import io
import struct
import wave
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.audio import wav as parser
from service.errors import InvalidAudio

Wav = Callable[..., bytes]


def read(data: bytes) -> list[float]:
    header = parser.parse(data)
    assert header.is_readable
    samples: list[float] = parser.read_samples(data, header).tolist()
    return samples


def stdlib_file(payload: bytes, n_channels: int, width: int, rate: int) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(n_channels)
        writer.setsampwidth(width)
        writer.setframerate(rate)
        writer.writeframes(payload)
    return file.getvalue()


def reference_samples(data: bytes) -> list[float]:
    """Read with the standard library, and by arithmetic on single integers."""
    with wave.open(io.BytesIO(data)) as reader:
        width, n_channels = reader.getsampwidth(), reader.getnchannels()
        raw = reader.readframes(reader.getnframes())
    values = [
        (raw[at] - 128) / 128
        if width == 1
        else int.from_bytes(raw[at : at + width], "little", signed=True) / (1 << 8 * width - 1)
        for at in range(0, len(raw), width)
    ]
    return [
        sum(values[at : at + n_channels]) / n_channels for at in range(0, len(values), n_channels)
    ]


@given(
    payload=st.binary(max_size=600),
    n_channels=st.integers(1, 8),
    width=st.sampled_from([1, 2, 3, 4]),
    rate=st.integers(1, 200_000),
)
def test_any_file_of_the_standard_library_reads_the_same(
    payload: bytes, n_channels: int, width: int, rate: int
) -> None:
    payload = payload[: len(payload) - len(payload) % (n_channels * width)]
    data = stdlib_file(payload, n_channels, width, rate)
    header = parser.parse(data)
    assert (header.sample_rate, header.n_channels) == (rate, n_channels)
    assert header.n_frames == len(payload) // (n_channels * width)
    assert read(data) == pytest.approx(reference_samples(data), abs=1e-7)


@given(
    payload=st.binary(min_size=8, max_size=200),
    changes=st.lists(st.tuples(st.integers(0, 250), st.integers(0, 255)), max_size=12),
    cut=st.integers(0, 250),
    tag=st.sampled_from([1, 3, 0xFFFE]),
    bits=st.sampled_from([8, 16, 24, 32, 64]),
)
def test_a_mutated_file_is_read_or_is_invalid_audio(
    wav: Wav, payload: bytes, changes: list[tuple[int, int]], cut: int, tag: int, bits: int
) -> None:
    mutated = bytearray(wav(payload, tag=tag, bits=bits))
    for at, value in changes:
        mutated[at % len(mutated)] = value
    data = bytes(mutated[: max(cut, 12)])
    try:
        header = parser.parse(data)
    except InvalidAudio:
        return
    assert header.data_start + header.data_bytes <= len(data)
    assert header.n_channels >= 1
    if not header.is_readable:
        return
    try:
        samples = parser.read_samples(data, header)
    except InvalidAudio:
        return
    assert len(samples) == header.n_frames
    assert np.isfinite(samples).all()
    assert not len(samples) or np.abs(samples).max() <= 1.0


@pytest.mark.parametrize("bits", [32, 64])
def test_floats_are_read_and_clipped(wav: Wav, bits: int) -> None:
    values = np.array([0.0, 0.5, -0.25, 1.5, -7.0], dtype=f"<f{bits // 8}")
    assert read(wav(values.tobytes(), tag=3, bits=bits)) == [0.0, 0.5, -0.25, 1.0, -1.0]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_sample_that_is_not_finite_is_named_by_its_place(wav: Wav, value: float) -> None:
    values = np.zeros(300_000, dtype="<f4")
    values[270_001] = value
    with pytest.raises(InvalidAudio, match="Sample 270001 "):
        read(wav(values.tobytes(), tag=3, bits=32))


def test_opposite_infinities_in_two_channels_are_not_finite(wav: Wav) -> None:
    values = np.array([0, 0, np.inf, -np.inf], dtype="<f4")
    with pytest.raises(InvalidAudio, match="Sample 1 "):
        read(wav(values.tobytes(), tag=3, bits=32, n_channels=2))


def extensible(payload: bytes, tag: int, container_bits: int, valid_bits: int) -> bytes:
    width = container_bits // 8
    fmt = struct.pack("<HHIIHH", 0xFFFE, 1, 16_000, 16_000 * width, width, container_bits)
    fmt += struct.pack("<HHIH", 22, valid_bits, 4, tag)
    fmt += bytes.fromhex("000000001000800000aa00389b71")
    chunks = struct.pack("<4sI", b"fmt ", len(fmt)) + fmt
    chunks += struct.pack("<4sI", b"data", len(payload)) + payload
    return struct.pack("<4sI4s", b"RIFF", len(chunks) + 4, b"WAVE") + chunks


def test_the_extensible_format_is_read_by_its_sub_format() -> None:
    assert read(extensible(struct.pack("<hh", 16384, -32768), 1, 16, 16)) == [0.5, -1.0]
    assert read(extensible(struct.pack("<ff", 0.5, -1.0), 3, 32, 32)) == [0.5, -1.0]
    assert read(extensible(struct.pack("<i", 1 << 30), 1, 32, 24)) == [0.5]
    assert not parser.parse(extensible(bytes(8), 6, 8, 8)).is_readable


def test_24_bits_in_frames_of_4_bytes_are_left_justified(wav: Wav) -> None:
    data = bytearray(wav(struct.pack("<i", 1 << 30), bits=24))
    data[32:34] = struct.pack("<H", 4)
    assert read(bytes(data)) == [0.5]


@pytest.mark.parametrize("claimed", [0, 0xFFFFFFFF, 0x7FFFFFFF, 10])
def test_a_data_chunk_that_lies_about_its_length_is_what_is_there(wav: Wav, claimed: int) -> None:
    data = bytearray(wav(struct.pack("<4h", 8192, 16384, -8192, -16384)))
    data[40:44] = struct.pack("<I", claimed)
    assert read(bytes(data)) == [0.25, 0.5, -0.25, -0.5]


def test_a_truncated_file_loses_only_what_is_missing(wav: Wav) -> None:
    data = wav(struct.pack("<4h", 8192, 16384, -8192, -16384))
    assert read(data[:-3]) == [0.25, 0.5]


def test_an_empty_data_chunk_before_other_chunks_has_no_samples(wav: Wav) -> None:
    data = wav(b"") + struct.pack("<4sI4s", b"LIST", 4, b"INFO")
    assert parser.parse(data).n_frames == 0


@pytest.mark.parametrize("padding", [b"", b"\0"])
def test_chunks_of_odd_size_are_skipped_with_and_without_their_padding(
    wav: Wav, padding: bytes
) -> None:
    data = wav(struct.pack("<h", 16384))
    odd = struct.pack("<4sI3s", b"LIST", 3, b"abc") + padding
    assert read(data[:12] + odd + data[12:]) == [0.5]
    assert read(data[:36] + odd + data[36:]) == [0.5]
    assert read(data + odd) == [0.5]


@pytest.mark.parametrize(
    ("start", "stop", "value", "names"),
    [
        (22, 24, 0, "0 channels"),
        (32, 34, 1, "frames of 1 bytes"),
        (34, 36, 0, "0 bits"),
        (34, 36, 99, "99 bits"),
        (16, 20, 15, r"15 bytes|no 'data'"),
        (12, 16, 0x20202020, "no 'fmt '"),
        (36, 40, 0x20202020, "no 'data'"),
    ],
)
def test_a_header_that_contradicts_itself_is_named(
    wav: Wav, start: int, stop: int, value: int, names: str
) -> None:
    data = bytearray(wav(bytes(64)))
    data[start:stop] = value.to_bytes(stop - start, "little")
    with pytest.raises(InvalidAudio, match=names):
        parser.parse(bytes(data))


def test_a_file_of_countless_empty_chunks_is_refused_early(wav: Wav) -> None:
    with pytest.raises(InvalidAudio, match="more than 10000 chunks"):
        parser.parse(wav(b"")[:36] + bytes(8) * 1_000_000)
