from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.audio.log_maximum import LogMaximum
from service.audio.mel import LogMelSpectrogram, Padding
from service.audio.windows import extract, total_frames

THIRTY_SECONDS = 480_000


def noise(seconds: float, seed: int = 0) -> NDArray[np.float32]:
    """Return noise whose loudness changes, so that windows have maxima of their own."""
    generator = np.random.default_rng(seed)
    n = round(seconds * 16_000)
    loudness = 0.05 + 0.04 * np.sin(np.arange(n) / 20_000)
    return (generator.standard_normal(n) * loudness).astype(np.float32)


def reference_mel(waveform: NDArray[np.float32], mel: LogMelSpectrogram) -> Tensor:
    """Return what `whisper.transcribe` slices its windows from: the file and 30 s of silence."""
    silence = np.zeros(THIRTY_SECONDS, dtype=np.float32)
    return mel(torch.from_numpy(np.concatenate([waveform, silence]))[None])[0]


@pytest.mark.parametrize("n_mels", [80, 128])
@pytest.mark.parametrize("seconds", [0.0001, 0.005, 0.3, 1.5, 31.2345])
def test_windows_are_slices_of_the_mel_of_the_whole_file(n_mels: int, seconds: float) -> None:
    mel = LogMelSpectrogram(n_mels)
    waveform = noise(seconds)
    whole = reference_mel(waveform, mel)
    maximum = LogMaximum(n_mels)(waveform)
    n_frames = total_frames(len(waveform))
    for start in range(0, n_frames, 1000):
        content = min(1000, n_frames - start)
        window = (extract(waveform, start, content), content, maximum)
        row = mel.windows([window], 1024, Padding.MEL)[0]
        torch.testing.assert_close(
            row[:, :content], whole[:, start : start + content], atol=1e-6, rtol=0
        )
        assert not row[:, content:].any()


@pytest.mark.parametrize("seconds", [0.0001, 1.2345, 30.0])
def test_sample_padding_is_the_mel_of_the_padded_samples(seconds: float) -> None:
    mel = LogMelSpectrogram(80)
    waveform = noise(seconds)
    n_frames = total_frames(len(waveform))
    padded = np.zeros(THIRTY_SECONDS, dtype=np.float32)
    padded[: len(waveform)] = waveform
    expected = mel(torch.from_numpy(padded)[None])
    window = (extract(waveform, 0, n_frames), n_frames, 5.0)
    torch.testing.assert_close(mel.windows([window], 3000, Padding.SAMPLES), expected)


@pytest.mark.parametrize("padding", list(Padding))
@pytest.mark.parametrize("n_mels", [80, 128])
def test_a_row_has_the_same_bits_alone_and_among_others(n_mels: int, padding: Padding) -> None:
    mel = LogMelSpectrogram(n_mels)
    windows: list[tuple[NDArray[np.float32], int, float | None]] = []
    for seed, content in enumerate([1, 37, 400, 128, 399, 64]):
        waveform = noise(4.0, seed)
        maximum = None if seed % 2 else LogMaximum(mel.n_mels)(waveform)
        windows.append((extract(waveform, 0, content), content, maximum))
    together = mel.windows(windows, 400, padding)
    for row, window in zip(together, windows, strict=True):
        assert torch.equal(row, mel.windows([window], 400, padding)[0])
    backwards = mel.windows(windows[::-1], 400, padding)
    assert torch.equal(backwards.flip(0), together)


def test_silence_has_no_nan() -> None:
    mel = LogMelSpectrogram(80)
    silence = np.zeros(160, dtype=np.float32)
    for padding in Padding:
        row = mel.windows([(extract(silence, 0, 1), 1, None)], 64, padding)
        assert row[0, :, 0].tolist() == [-1.5] * 80


@pytest.mark.parametrize(("n_samples", "content"), [(559, 1), (560, 0), (560 + 160 * 64, 65)])
def test_windows_of_the_wrong_size_are_refused(n_samples: int, content: int) -> None:
    samples = np.zeros(n_samples, dtype=np.float32)
    with pytest.raises(ValueError, match=f"a window of {content} frames in 64"):
        LogMelSpectrogram(80).windows([(samples, content, None)], 64, Padding.MEL)
