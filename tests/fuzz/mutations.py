"""Files that were good once. Knows nothing about who reads them.

A mutation hangs on its number alone, so that whatever is found can be made again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tests.unit.audio.conftest import encode_audio, voice_like

FORMATS = [
    ("wav", "pcm_s16le", 8_000), ("wav", "adpcm_ima_wav", 16_000), ("wav", "pcm_f32le", 48_000),
    ("w64", "pcm_s16le", 16_000), ("aiff", "pcm_s16be", 16_000), ("flac", "flac", 44_100),
    ("ogg", "flac", 16_000), ("ogg", "libopus", 48_000), ("webm", "libopus", 48_000),
    ("matroska", "flac", 48_000), ("matroska", "ac3", 48_000), ("mp3", "libmp3lame", 44_100),
    ("adts", "aac", 44_100), ("mp4", "aac", 44_100), ("ipod", "alac", 44_100),
    ("mov", "pcm_s16le", 44_100), ("caf", "pcm_s16le", 44_100), ("caf", "alac", 44_100),
    ("amr", "libopencore_amrnb", 8_000), ("3gp", "libopencore_amrnb", 8_000),
]  # fmt: skip
"""Container, encoder, rate: every family on the allow-list, and both that are read in process."""
SECONDS = 0.3
HEADER_BYTES = 256
EXTREMES = (0, 1, 0x7F, 0x80, 0xFF)
MAX_STEPS = 4

Mutate = Callable[[bytearray, random.Random], None]


def originals() -> list[bytes]:
    """Return a good file in every format, and a WAV file that is read without a child."""
    made = [encode_audio(voice_like(SECONDS, rate, 1 + (rate > 16_000)), rate, container, codec)
            for container, codec, rate in FORMATS if codec != "libopencore_amrnb"]  # fmt: skip
    made += [encode_audio(voice_like(SECONDS, 8_000), 8_000, container, codec)
             for container, codec, _ in FORMATS if codec == "libopencore_amrnb"]  # fmt: skip
    return [*made, encode_audio(voice_like(SECONDS, 16_000), 16_000, "wav", "pcm_s16le")]


def mutated(files: Sequence[bytes], seed: int, number: int) -> bytes:
    """Return mutation `number` of one of the files."""
    chance = random.Random(f"{seed}/{number}")
    data = bytearray(files[number % len(files)])
    for _ in range(chance.randint(1, MAX_STEPS)):
        chance.choice(MUTATIONS)(data, chance)
    if chance.random() < 0.1:
        other = chance.choice(files)
        cut = chance.randrange(len(data) + 1)
        data[cut:] = other[chance.randrange(len(other)) :]
    return bytes(data)


def _place(data: bytearray, chance: random.Random) -> int:
    """Return a place, half of the time where headers are."""
    reach = min(HEADER_BYTES, len(data)) if chance.random() < 0.5 else len(data)
    return chance.randrange(max(1, reach))


def _flip_bits(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.randint(1, 16)):
        if data:
            data[_place(data, chance)] ^= 1 << chance.randrange(8)


def _set_bytes(data: bytearray, chance: random.Random) -> None:
    for _ in range(chance.randint(1, 16)):
        if data:
            data[_place(data, chance)] = chance.choice([*EXTREMES, chance.randrange(256)])


def _set_integer(data: bytearray, chance: random.Random) -> None:
    """Overwrite what may be a length or a rate with one at a border."""
    width = chance.choice([2, 4, 8])
    value = chance.choice([0, 1, 2 ** (8 * width) - 1, 2 ** (8 * width - 1), len(data)])
    order: Any = chance.choice(["little", "big"])
    at = _place(data, chance)
    data[at : at + width] = (value % 2 ** (8 * width)).to_bytes(width, order)


def _cut_off(data: bytearray, chance: random.Random) -> None:
    del data[_place(data, chance) :]


def _take_out(data: bytearray, chance: random.Random) -> None:
    at = _place(data, chance)
    del data[at : at + chance.randint(1, 512)]


def _repeat(data: bytearray, chance: random.Random) -> None:
    at = _place(data, chance)
    piece = bytes(data[at : at + chance.randint(1, 512)])
    data[at:at] = piece * chance.randint(1, 8)


def _put_noise_in(data: bytearray, chance: random.Random) -> None:
    at = _place(data, chance)
    data[at:at] = chance.randbytes(chance.randint(1, 512))


def _exchange(data: bytearray, chance: random.Random) -> None:
    """Let two pieces change places, as chunks and pages out of order are."""
    first, second = sorted(_place(data, chance) for _ in range(2))
    length = min(chance.randint(1, 256), second - first, len(data) - second)
    one, two = bytes(data[first : first + length]), bytes(data[second : second + length])
    data[first : first + length], data[second : second + length] = two, one


MUTATIONS: list[Mutate] = [
    _flip_bits, _set_bytes, _set_integer, _set_integer, _cut_off, _take_out, _repeat,
    _put_noise_in, _exchange,
]  # fmt: skip


def is_sound(waveform: np.ndarray[Any, Any]) -> bool:
    """Whether samples are what the service promises of them."""
    return bool(
        waveform.dtype == np.float32
        and waveform.ndim == 1
        and len(waveform)
        and np.isfinite(waveform).all()
        and np.abs(waveform).max() <= 1.0
    )
