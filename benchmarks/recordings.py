"""The samples in several formats, and long: what a service under test is sent.

Knows nothing about services.
"""

from __future__ import annotations

import io
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

SAMPLES = Path(__file__).parents[1] / "samples"
RATE = 16_000
LONG_S = 40.0
"""More than a window."""
FORMATS = [
    ("wav", "pcm_s16le", 8_000),
    ("flac", "flac", 44_100),
    ("mp3", "libmp3lame", 44_100),
    ("webm", "libopus", 48_000),
    ("mp4", "aac", 48_000),
]
"""Container, encoder, rate: none is read in the service's own process."""


@dataclass(frozen=True, slots=True)
class Recording:
    """One file.

    Attributes:
        name: of the sample and its format.
        data: the file.
    """

    name: str
    data: bytes


def recordings() -> list[Recording]:
    """Return every sample as it is, one of them in every format, and all in one long file."""
    sampled = {path.stem: read(path) for path in sorted(SAMPLES.glob("*.wav"))}
    first = next(iter(sampled))
    made = [Recording(f"{name}.wav", wav(samples)) for name, samples in sampled.items()]
    for container, codec, rate in FORMATS:
        data = encode(sampled[first], container, codec, rate)
        made.append(Recording(f"{first}.{rate}.{container}", data))
    return [*made, Recording("long.wav", wav(at_least(LONG_S, list(sampled.values()))))]


def read(path: Path) -> NDArray[np.int16]:
    """Return the samples of a 16-bit file, 16 kHz mono."""
    with wave.open(str(path), "rb") as file:
        return np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")


def at_least(seconds: float, pieces: list[NDArray[np.int16]]) -> NDArray[np.int16]:
    """Return the pieces one after the other, again and again, for so many seconds."""
    once = np.concatenate(pieces)
    return np.resize(once, int(seconds * RATE))


def wav(samples: NDArray[np.int16]) -> bytes:
    """Return a WAV file, 16 kHz mono."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(RATE)
        writer.writeframes(samples.tobytes())
    return file.getvalue()


def encode(samples: NDArray[np.int16], container: str, codec: str, rate: int) -> bytes:
    """Return a file in another format, resampled."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate, layout="mono")
        resampler = av.AudioResampler(stream.format, "mono", rate, frame_size=1024)
        for frame in _frames(samples):
            for resampled in resampler.resample(frame):
                output.mux(stream.encode(resampled))
        for resampled in resampler.resample(None):
            output.mux(stream.encode(resampled))
        output.mux(stream.encode(None))
    return file.getvalue()


def _frames(samples: NDArray[np.int16]) -> Iterator[av.AudioFrame]:
    frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
    frame.sample_rate = RATE
    yield frame
