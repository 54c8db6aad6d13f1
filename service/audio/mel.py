"""Whisper's log-mel spectrogram in torch, batched, on the model's device.

Knows nothing about where samples come from. The reference has two conventions for audio shorter
than a window, and they give different numbers; `Padding` names them.

Formula: openai/whisper `audio.py`, `log_mel_spectrogram`. Parity: tests/parity/test_mel.py.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from service.audio.filterbank import CONTEXT_SAMPLES, HOP_LENGTH, N_FFT, slaney_filters

DYNAMIC_RANGE = 8.0
"""Values more than this far (in log10 of power) under the maximum are clamped."""


class Padding(enum.Enum):
    """How audio shorter than a window is filled up.

    SAMPLES: zeros are appended to the waveform (`whisper.decode` on `pad_or_trim(audio)`).
    MEL: 0.0 is appended to the normalised spectrogram (`whisper.transcribe`).
    """

    SAMPLES = "samples"
    MEL = "mel"


def mel_filterbank(n_mels: int) -> Tensor:
    """Return Slaney's triangular filters with area normalisation, f32[n_mels n_fft/2+1]."""
    return torch.from_numpy(slaney_filters(n_mels))


class LogMelSpectrogram:
    """Computes log-mel spectrograms with `n_mels` bands (80 or 128) on `device`."""

    def __init__(self, n_mels: int, device: torch.device | str = "cpu") -> None:
        self.n_mels = n_mels
        self.device = torch.device(device)
        self._filters = mel_filterbank(n_mels).to(self.device)
        self._window = torch.hann_window(N_FFT, device=self.device)

    def log_power(self, samples: Tensor) -> Tensor:
        """Return log10 mel power, not normalised yet.

        Shapes: samples f32[b n+400], that is with `CONTEXT_SAMPLES` on each side, -> f32[b n_mels
        n/160] (10 ms a frame, the first centred on the first sample after the context).
        """
        spectrum = torch.stft(
            self._on_device(samples),
            N_FFT,
            HOP_LENGTH,
            window=self._window,
            center=False,
            return_complex=True,
        )
        power = spectrum[..., :-1].abs() ** 2
        return (self._filters @ power).clamp(min=1e-10).log10()

    def normalise(self, log_power: Tensor, maximum: Tensor) -> Tensor:
        """Clamp to `DYNAMIC_RANGE` under `maximum` (broadcast) and scale to about [-1, 1]."""
        return (torch.maximum(log_power, maximum - DYNAMIC_RANGE) + 4.0) / 4.0

    def __call__(self, waveform: Tensor) -> Tensor:
        """Return the normalised log-mel of whole waveforms, each clamped at its own maximum.

        Shapes: waveform f32[b n] (16 kHz, [-1, 1]), n at least 201, -> f32[b n_mels n/160].
        """
        padded = pad(waveform, (CONTEXT_SAMPLES, CONTEXT_SAMPLES), mode="reflect")
        log_power = self.log_power(padded)
        return self.normalise(log_power, log_power.amax(dim=(-2, -1), keepdim=True))

    def windows(
        self,
        inputs: Sequence[tuple[NDArray[np.float32], int, float | None]],
        n_frames: int,
        padding: Padding,
    ) -> Tensor:
        """Return the normalised log-mel of windows that are encoded together.

        Each row is computed by itself, in shapes that depend on that row only, so that its bits
        are the same whatever stands beside it.

        Args:
            inputs: for each window (samples, content_frames, log_maximum): samples
                f32[content_frames*160 + 400] as `windows.extract` gives them, and the log10 maximum
                of the whole recording, or None if the window is all of it.
            n_frames: frames of every row of the result, at least each window's content.
            padding: with `Padding.SAMPLES` a window is treated as `whisper.decode` treats it: a
                recording of its own, clamped at its own maximum, so log_maximum is not used.

        Shapes: -> f32[b n_mels n_frames] on `device`.

        Raises:
            ValueError: if a window has no content, more than `n_frames`, or the wrong samples.
        """
        mel = torch.zeros(len(inputs), self.n_mels, n_frames, device=self.device)
        for row, (samples, content_frames, log_maximum) in enumerate(inputs):
            expected = content_frames * HOP_LENGTH + N_FFT
            if not 1 <= content_frames <= n_frames or samples.shape != (expected,):
                raise ValueError(
                    f"a window of {content_frames} frames in {n_frames} needs {expected} samples, "
                    f"found shape {list(samples.shape)}"
                )
            window = torch.from_numpy(samples)[None]  # [1 n]
            if padding is Padding.SAMPLES:
                body = window[:, CONTEXT_SAMPLES : CONTEXT_SAMPLES + n_frames * HOP_LENGTH]
                mel[row] = self(pad(body, (0, n_frames * HOP_LENGTH - body.shape[-1])))[0]
            else:
                mel[row, :, :content_frames] = self._of_file(window, log_maximum)[0]
        return mel

    def _of_file(self, window: Tensor, log_maximum: float | None) -> Tensor:
        """Normalise a window f32[1 n+400] by the maximum of the recording it was cut from."""
        log_power = self.log_power(window)
        if log_maximum is None:
            return self.normalise(log_power, log_power.amax())
        return self.normalise(log_power, log_power.new_full((), log_maximum))

    def _on_device(self, samples: Tensor) -> Tensor:
        """Return samples on the device; the host does not wait until they are there."""
        if self.device.type == "cpu":
            return samples.to(self.device)
        return samples.pin_memory().to(self.device, non_blocking=True)
