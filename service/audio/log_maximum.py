"""The largest mel power of a whole recording, on numpy. Knows nothing about windows or models.

Not on torch, which the service's process does not have. Where the engine is a thread, torch would
give this one helpers of its own, and once there are more of them than CPUs, none of them waits for
work awake any more, the engine's neither (docs/adr/0017).
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from service.audio.filterbank import CONTEXT_SAMPLES, HOP_LENGTH, N_FFT, slaney_filters
from service.audio.windows import extract

_CHUNK_FRAMES = 3000
"""Frames whose power is computed at once."""
_LEAST_POWER = 1e-10
"""What the reference takes silence for."""


class LogMaximum:
    """Finds log10 of the largest mel power in `n_mels` bands (80 or 128)."""

    def __init__(self, n_mels: int) -> None:
        self._filters = slaney_filters(n_mels)
        turn = 2 * np.pi * np.arange(N_FFT) / N_FFT
        self._window = (0.5 - 0.5 * np.cos(turn)).astype(np.float32)

    def __call__(self, waveform: NDArray[np.float32]) -> float:
        """Return the value at which the reference clamps every window of a recording.

        It counts the frames past the end that still see audio, and works through the recording in
        chunks: memory stays bounded. Safe to call from any thread.

        Shapes: waveform f32[n] (16 kHz, [-1, 1]), n at least 1.
        """
        n_frames = -(-(len(waveform) + CONTEXT_SAMPLES) // HOP_LENGTH)
        largest = _LEAST_POWER
        for start in range(0, n_frames, _CHUNK_FRAMES):
            samples = extract(waveform, start, min(_CHUNK_FRAMES, n_frames - start))
            frames = sliding_window_view(samples, N_FFT)[:-1:HOP_LENGTH]  # [f 400]
            spectrum = np.fft.rfft(frames * self._window)  # [f 201]
            power = (spectrum.real**2 + spectrum.imag**2) @ self._filters.T
            largest = max(largest, float(power.max()))
        return float(np.log10(largest))
