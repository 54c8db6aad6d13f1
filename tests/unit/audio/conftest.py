"""Audio files made on the spot, and a decoder to read them with."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any, Protocol

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from service.audio.decode import AudioDecoder, AudioLimits

Samples = NDArray[np.float32]


class Encode(Protocol):
    def __call__(
        self, samples: NDArray[Any], rate: int, container: str, codec: str, *, video: bool = False
    ) -> bytes: ...


def voice_like(seconds: float, rate: int, n_channels: int = 1) -> Samples:
    """Return tones under an envelope, f32[channels n], the channels of different loudness."""
    at = np.arange(round(seconds * rate)) / rate
    envelope = 0.3 + 0.2 * np.sin(2 * np.pi * 1.7 * at + 0.3)
    tones = np.sin(2 * np.pi * 310 * at) + 0.5 * np.sin(2 * np.pi * (700 + 90 * at) * at)
    loudness = np.linspace(1.0, 0.5, n_channels)[:, None]
    return (loudness * (envelope * tones)[None] / 1.5).astype(np.float32)


def encode_audio(
    samples: NDArray[Any], rate: int, container: str, codec: str, *, video: bool = False
) -> bytes:
    """Return a file with f32[channels n]; with `video`, a moving picture is its first stream."""
    n_channels = len(samples)
    layouts = {1: "mono", 2: "stereo", 3: "2.1", 4: "4.0", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
    layout = layouts[n_channels]
    file = BytesIO()
    with av.open(file, "w", format=container) as output:
        if video:
            picture = output.add_stream("mpeg4", rate=25)
            picture.width = picture.height = 64
            picture.pix_fmt = "yuv420p"
        stream = output.add_stream(codec, rate=rate, layout=layout)
        for _ in range(25 if video else 0):
            output.mux(picture.encode(av.VideoFrame(64, 64, "yuv420p")))
        for first in range(0, samples.shape[1], 1024):
            block = np.ascontiguousarray(samples[:, first : first + 1024].T).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(block, format="flt", layout=layout)
            frame.sample_rate = rate
            frame.pts = first
            output.mux(stream.encode(frame))
        if video:
            output.mux(picture.encode(None))
        output.mux(stream.encode(None))
    return file.getvalue()


def wav_file(
    payload: bytes, *, tag: int = 1, rate: int = 16_000, n_channels: int = 1, bits: int = 16
) -> bytes:
    """Return a WAV file around raw samples."""
    block = n_channels * bits // 8
    fmt = struct.pack("<HHIIHH", tag, n_channels, rate, rate * block, block, bits)
    chunks = struct.pack("<4sI", b"fmt ", len(fmt)) + fmt
    chunks += struct.pack("<4sI", b"data", len(payload)) + payload
    return struct.pack("<4sI4s", b"RIFF", len(chunks) + 4, b"WAVE") + chunks


@pytest.fixture(scope="session")
def voice() -> Callable[..., Samples]:
    return voice_like


@pytest.fixture(scope="session")
def encode() -> Encode:
    return encode_audio


@pytest.fixture(scope="session")
def wav() -> Callable[..., bytes]:
    return wav_file


@pytest.fixture(scope="session")
def limits() -> AudioLimits:
    return AudioLimits(
        max_upload_bytes=32 << 20,
        max_audio_s=600.0,
        max_channels=8,
        max_decoded_bytes=256 << 20,
        decode_timeout_s=60.0,
    )


@pytest.fixture(scope="module")
def decode(limits: AudioLimits) -> Iterator[Callable[[bytes], Samples]]:
    """Decode with one decoder, so that its children start ahead of need."""
    with asyncio.Runner() as runner:
        decoder = AudioDecoder(limits)
        runner.run(decoder.start())

        def run(data: bytes) -> Samples:
            return runner.run(decoder.decode(data))

        yield run
        runner.run(decoder.close())
