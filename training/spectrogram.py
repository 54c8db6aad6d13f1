"""Waveforms to the log-mels of windows, as the service makes them, augmented on the way.

Knows nothing about what is said.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from torch.nn import functional as F

from service.audio.filterbank import CONTEXT_SAMPLES, HOP_LENGTH
from service.audio.mel import LogMelSpectrogram
from training import augment
from training.augment import N_MELS, Wave

ROUNDING_FRAMES = 64
MAX_FRAMES = 3000


def window_frames(sound: Wave) -> int:
    """Return the served length of a clip of at most 30 s."""
    frames = -(-(len(sound) // HOP_LENGTH) // ROUNDING_FRAMES) * ROUNDING_FRAMES
    return min(max(frames, ROUNDING_FRAMES), MAX_FRAMES)


class Spectrogram:
    """Waveforms of one bucket to augmented, normalised log-mels, as the service makes them."""

    def __init__(self) -> None:
        self._mel = LogMelSpectrogram(N_MELS)

    def __call__(
        self, sounds: list[Wave], frames: int, rng: Generator | None, strength: float = 1
    ) -> Tensor:
        """Return f32[b n_mels frames]; without `rng`, nothing is augmented."""
        size = frames * HOP_LENGTH + 2 * CONTEXT_SAMPLES
        batch = torch.zeros(len(sounds), size)
        for row, sound in enumerate(sounds):
            wave = torch.from_numpy(sound)[None]
            wave = F.pad(wave, (CONTEXT_SAMPLES, 0), mode="reflect")[0]
            batch[row, : len(wave)] = wave[:size]
        lengths = [min(len(sound) // HOP_LENGTH, frames) for sound in sounds]
        log_power = self._mel.log_power(batch)
        inside = torch.arange(frames) < torch.tensor(lengths)[:, None]  # [b t]
        if rng is not None:
            log_power = self._augment(log_power, rng, strength)
        maximum = log_power.masked_fill(~inside[:, None], -10).amax(dim=(-2, -1), keepdim=True)
        if rng is not None:
            louder = rng.uniform(0, 1.5, len(sounds)) * (rng.random(len(sounds)) < 0.15)
            maximum = maximum + torch.from_numpy(louder).float()[:, None, None]
        mel = self._mel.normalise(log_power, maximum)
        if rng is not None and rng.random() < strength:
            augment.mask_spectrogram(rng, mel, lengths)
        return mel * inside[:, None]

    @staticmethod
    def _augment(log_power: Tensor, rng: Generator, strength: float) -> Tensor:
        count = len(log_power)
        factors = np.exp(rng.normal(0, 0.1, count).clip(-0.22, 0.22)) ** (rng.random(count) < 0.8)
        warped = augment.warp_matrices(torch.from_numpy(factors).float()) @ log_power
        curves = augment.microphone_curves(rng, count)
        changed = torch.rand(count, 1, 1) < 0.85 * strength
        return torch.where(changed, warped + curves, warped).clamp(min=-10)
