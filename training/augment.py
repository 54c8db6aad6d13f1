"""Makes one recording sound like many people, rooms, distances and microphones.

Waveforms are f32[n] at 16 kHz. What can be done on the log-mel spectrogram is done there, for a
whole batch at once: it is cheaper. Knows nothing about what is said.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.signal import fftconvolve
from torch import Tensor

from service.audio.mel import mel_filterbank

Wave = NDArray[np.float32]
SAMPLE_RATE = 16_000
N_MELS = 80


def change_speed(samples: Wave, factor: float) -> Wave:
    """Play faster (factor > 1): tempo, pitch and formants move together."""
    count, last = max(int(len(samples) / factor), 1), len(samples) - 1
    at = np.arange(count, dtype=np.float64) * factor
    left = np.minimum(at.astype(np.int64), last)
    before, after = samples[left], samples[np.minimum(left + 1, last)]
    return np.asarray(before + (after - before) * (at - left).astype(np.float32), np.float32)


def set_level(samples: Wave, rms: float) -> Wave:
    """Scale so that the louder half of the sound has this root mean square."""
    loud = float(np.sqrt(np.mean(np.square(samples)) + 1e-12))
    return (samples * np.float32(rms / max(loud, 1e-5))).astype(np.float32)


def telephone_levels(samples: Wave) -> Wave:
    """Return the level of each 10 ms between 150 and 3,600 Hz, in dB under the loudest.

    Shapes: f32[n] -> f32[n/160].
    """
    spectrum = np.fft.rfft(samples)
    frequencies = np.fft.rfftfreq(len(samples), 1 / SAMPLE_RATE)
    spectrum[(frequencies < 150) | (frequencies > 3600)] = 0
    frames = len(samples) // 160
    heard = np.fft.irfft(spectrum, len(samples))[: frames * 160].reshape(frames, 160)
    power = np.mean(np.square(heard), axis=1) + 1e-12
    return np.asarray(10 * np.log10(power / power.max()), np.float32)


def coloured_noise(rng: Generator, length: int) -> Wave:
    """Return noise whose power falls by a random 0 to 2.2 powers of the frequency, f32[length]."""
    spectrum = np.fft.rfft(rng.standard_normal(length))
    spectrum *= (np.arange(len(spectrum)) + 1.0) ** -rng.uniform(0, 1.1)
    return np.fft.irfft(spectrum, length).astype(np.float32)


def tones(rng: Generator, length: int) -> Wave:
    """Return steady, sliding or beeping tones, f32[length]."""
    time = np.arange(length, dtype=np.float32) / SAMPLE_RATE
    sound = np.zeros(length, np.float32)
    for _ in range(rng.integers(1, 4)):
        start, end = np.exp(rng.uniform(math.log(60), math.log(6000), 2))
        if rng.random() < 0.6:
            end = start
        phase = 2 * np.pi * (start * time + (end - start) * time**2 / (2 * time[-1] + 1e-3))
        tone = np.sin(phase)
        if rng.random() < 0.3:
            tone = np.sign(tone)
        if rng.random() < 0.5:
            tone = tone * (np.sin(2 * np.pi * rng.uniform(0.3, 6) * time) > rng.uniform(-0.8, 0.8))
        sound += (tone * rng.uniform(0.1, 1)).astype(np.float32)
    return sound


def room(rng: Generator, samples: Wave) -> Wave:
    """Convolve with a made-up room: a direct path and a decaying tail, f32[n] -> f32[n]."""
    decay_s = rng.uniform(0.08, 0.7)
    length = int(decay_s * SAMPLE_RATE)
    tail = rng.standard_normal(length) * np.exp(-6.9 * np.arange(length) / length)
    delay = int(rng.uniform(0.001, 0.02) * SAMPLE_RATE)
    response = np.zeros(length + delay, np.float32)
    response[delay:] = tail / np.sqrt(np.sum(tail**2)) * rng.uniform(0.1, 0.9)
    response[0] = 1.0
    wet: Wave = fftconvolve(samples, response)[: len(samples)].astype(np.float32)
    return wet


def add_noise(samples: Wave, noise: Wave, snr_db: float) -> Wave:
    """Add noise at a signal-to-noise ratio over the whole clip, f32[n], f32[n] -> f32[n]."""
    signal = float(np.mean(np.square(samples)))
    power = float(np.mean(np.square(noise)))
    if signal < 1e-12 or power < 1e-12:
        return samples
    return samples + noise * np.float32(math.sqrt(signal / power * 10 ** (-snr_db / 10)))


def narrow(rng: Generator, samples: Wave) -> Wave:
    """Return what a recorder at 7 to 9 kHz would keep, f32[n] -> f32[n]."""
    spectrum = np.fft.rfft(samples)
    spectrum[int(len(spectrum) * rng.uniform(3500, 4500) / (SAMPLE_RATE / 2)) :] = 0
    return np.fft.irfft(spectrum, len(samples)).astype(np.float32)


def distort(rng: Generator, samples: Wave) -> Wave:
    """Overdrive softly, or quantise as a telephone's mu-law does."""
    peak = float(np.abs(samples).max()) + 1e-6
    scaled = samples / peak
    if rng.random() < 0.5:
        drive = rng.uniform(1.5, 8)
        return np.asarray(np.tanh(scaled * drive) * peak / drive, np.float32)
    companded = np.sign(scaled) * np.log1p(255 * np.abs(scaled)) / math.log(256)
    companded = np.round(companded * 127) / 127
    expanded = np.sign(companded) * (np.power(256.0, np.abs(companded)) - 1) / 255
    return np.asarray(expanded * peak, np.float32)


_CENTRES_HZ = (mel_filterbank(N_MELS) @ torch.linspace(0, 8000, 201)) / mel_filterbank(N_MELS).sum(
    dim=1
)


def warp_matrices(factors: Tensor) -> Tensor:
    """Return matrices that stretch the frequency axis (another length of the vocal tract).

    Shapes: factors f32[b] -> f32[b n_mels n_mels], to be multiplied with log-mels [b n_mels t].
    """
    wanted = (_CENTRES_HZ[None] * factors[:, None]).clamp(max=float(_CENTRES_HZ[-1]))  # [b m]
    right = torch.searchsorted(_CENTRES_HZ, wanted.contiguous()).clamp(1, N_MELS - 1)
    low, high = _CENTRES_HZ[right - 1], _CENTRES_HZ[right]
    share = ((wanted - low) / (high - low)).clamp(0, 1)
    matrices = torch.zeros(len(factors), N_MELS, N_MELS)
    matrices.scatter_(2, right[..., None] - 1, (1 - share)[..., None])
    return matrices.scatter_(2, right[..., None], share[..., None])


def microphone_curves(rng: Generator, count: int) -> Tensor:
    """Return random frequency responses in log10 of power, f32[count n_mels 1].

    A smooth curve of up to 10 dB, and for some a low-pass at a telephone's 3.3 to 4 kHz or a
    high-pass at up to 400 Hz.
    """
    grid = np.linspace(0, N_MELS - 1, 7)
    bins = np.arange(N_MELS)
    centres = _CENTRES_HZ.numpy()
    curves = np.empty((count, N_MELS), np.float32)
    for row in range(count):
        curve = np.interp(bins, grid, rng.uniform(-0.6, 0.6, len(grid)))
        curve += rng.uniform(-0.5, 0.5) * np.linspace(-1, 1, N_MELS)
        if rng.random() < 0.35:
            over = np.clip(np.log2(centres / rng.uniform(3300, 4200)), 0, None)
            curve -= np.minimum(over * rng.uniform(10, 40), rng.uniform(3, 8))
        if rng.random() < 0.2:
            under = np.clip(np.log2(rng.uniform(100, 400) / centres), 0, None)
            curve -= np.minimum(under * 2.4, 4)
        curves[row] = curve
    return torch.from_numpy(curves)[..., None]


def mask_spectrogram(rng: Generator, mel: Tensor, lengths: list[int]) -> None:
    """SpecAugment in place: bands and short stretches become the item's mean.

    Shapes: mel f32[b n_mels t]; lengths are the frames that hold content.
    """
    for row, length in enumerate(lengths):
        item = mel[row, :, :length]
        mean = item.mean()
        for _ in range(2):
            width = int(rng.integers(0, 16))
            low = int(rng.integers(0, N_MELS - width))
            item[low : low + width] = mean
        for _ in range(int(rng.poisson(length / 120))):
            width = int(rng.integers(1, 10))
            start = int(rng.integers(0, max(length - width, 1)))
            item[:, start : start + width] = mean
