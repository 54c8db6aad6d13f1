"""Mutated WAV files, read by the service's own parser and by the standard library's.

The parser reads more (floats, extensible headers, files that break off), and refuses what makes no
sense where `wave` takes it as it is. A header may say one width by its bits and another by its
frames: the parser goes by the frames, `wave` by the bits. Only where both have samples, of the same
width, these have to be the same.
"""

from __future__ import annotations

import io
import wave
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.audio import wav as parser
from service.errors import InvalidAudio
from tests.fuzz.feeding import Findings
from tests.fuzz.mutations import is_sound, mutated
from tests.unit.audio.conftest import encode_audio, voice_like

Samples = NDArray[np.float64]
CODECS = ("pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le")
SECONDS = 0.05


class Reading(NamedTuple):
    """What a reader makes of a file: its rate, bytes of a sample, and the mean of its channels."""

    rate: int
    n_channels: int
    width: int
    samples: Samples


def originals() -> list[bytes]:
    """Return good files of every width, mono and stereo."""
    return [
        encode_audio(voice_like(SECONDS, 16_000, n_channels), 16_000, "wav", codec)
        for codec in CODECS
        for n_channels in (1, 2)
    ]


def by_wave(data: bytes) -> Reading | None:
    """Return what `wave` makes of it; None if nothing."""
    try:
        with wave.open(io.BytesIO(data)) as reader:
            width, n_channels, rate = (
                reader.getsampwidth(), reader.getnchannels(), reader.getframerate(),
            )  # fmt: skip
            raw = reader.readframes(min(reader.getnframes(), len(data)))
    except (wave.Error, EOFError, RuntimeError, OverflowError):
        return None
    if width not in {1, 2, 3, 4}:
        return None
    n_frames = len(raw) // (width * n_channels)
    if not n_frames:
        return None
    units = np.frombuffer(raw, np.uint8, n_frames * n_channels * width).reshape(-1, width)
    values = units.astype(np.int64) @ (1 << 8 * np.arange(width))
    top = 1 << 8 * width - 1
    signed = values - top if width == 1 else (values ^ top) - top
    return Reading(rate, n_channels, width, signed.reshape(-1, n_channels).mean(axis=1) / top)


def by_us(data: bytes) -> Reading | str:
    """Return what the service makes of it, or why it is refused."""
    try:
        header = parser.parse(data)
        if not header.is_readable:
            return "left to a child"
        samples = parser.read_samples(data, header)
    except InvalidAudio as error:
        return f"400 {error.code}"
    if not len(samples):
        return "400 empty"
    if not is_sound(samples):
        raise AssertionError("no sound")
    as_double = samples.astype(np.float64)
    return Reading(header.sample_rate, header.n_channels, header.sample_bytes, as_double)


def compare(data: bytes) -> tuple[str, bool]:
    """Return what came of a file, and whether that is as it should be."""
    try:
        ours, theirs = by_us(data), by_wave(data)
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        return f"500 {type(error).__name__}: {error}", False
    if isinstance(ours, str):
        return ours, True
    if theirs is None:
        return "200, and wave does not read it", True
    if ours.width != theirs.width:
        return "200, by frames that contradict the bits", True
    n_frames = min(len(ours.samples), len(theirs.samples))
    same = ours[:2] == theirs[:2] and np.allclose(
        ours.samples[:n_frames], theirs.samples[:n_frames], rtol=0, atol=1e-6
    )
    return ("200, as wave reads it" if same else "200, otherwise than wave"), bool(same)


def compare_all(
    seed: int, numbers: Iterable[int], findings: Findings, on_done: Callable[[], object]
) -> None:
    """Compare files, and note what came of them."""
    files = originals()
    for number in numbers:
        outcome, good = compare(mutated(files, seed, number))
        findings.outcomes[outcome] += 1
        if not good:
            findings.bad.append(f"WAV file {number} of seed {seed}: {outcome}")
        on_done()
