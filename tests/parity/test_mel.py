"""The log-mel spectrogram against openai/whisper's own numbers."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from service.audio import wav
from service.audio.log_maximum import LogMaximum
from service.audio.mel import LogMelSpectrogram, Padding, mel_filterbank
from service.audio.windows import extract, total_frames

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def fixtures() -> Path:
    shared = os.environ.get("EARSHOT_SHARED")
    if not shared:
        pytest.skip("EARSHOT_SHARED is not set: no recorded reference spectrograms")
    return Path(shared) / "fixtures"


def load(path: Path, n_rows: int) -> NDArray[np.float32]:
    return np.fromfile(path, dtype="<f4").reshape(n_rows, -1)


@pytest.fixture(scope="module")
def speech(fixtures: Path) -> NDArray[np.float32]:
    data = (fixtures / "wav" / "test-speech-1.5s.wav").read_bytes()
    return wav.read_samples(data, wav.parse(data))


def test_the_wav_parser_reads_what_the_reference_read(
    fixtures: Path, speech: NDArray[np.float32]
) -> None:
    recorded = np.fromfile(fixtures / "mel" / "ref_a_audio.bin", dtype="<f4")
    np.testing.assert_array_equal(speech, recorded)


@pytest.mark.parametrize("n_mels", [80, 128])
def test_the_filterbank_is_the_reference_one(fixtures: Path, n_mels: int) -> None:
    recorded = torch.from_numpy(load(fixtures / "mel" / f"mel_{n_mels}.bin", n_mels))
    torch.testing.assert_close(mel_filterbank(n_mels), recorded, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("n_mels", [80, 128])
def test_the_mel_of_a_recording_is_the_reference_one(
    fixtures: Path, speech: NDArray[np.float32], n_mels: int
) -> None:
    recorded = torch.from_numpy(load(fixtures / "mel" / f"openai_mel{n_mels}_1p5s.bin", n_mels))
    mel = LogMelSpectrogram(n_mels)(torch.from_numpy(speech)[None])[0]
    assert mel.shape == recorded.shape == (n_mels, 150)
    assert (mel - recorded).abs().max() < TOLERANCE


def test_a_window_with_padded_samples_is_the_reference_one(
    fixtures: Path, speech: NDArray[np.float32]
) -> None:
    recorded = torch.from_numpy(load(fixtures / "mel" / "openai_mel80_30s.bin", 80))
    n_frames = total_frames(len(speech))
    window = (extract(speech, 0, n_frames), n_frames, None)
    mel = LogMelSpectrogram(80).windows([window], 3000, Padding.SAMPLES)[0]
    assert mel.shape == recorded.shape == (80, 3000)
    assert (mel - recorded).abs().max() < TOLERANCE


def test_a_window_with_padded_mel_is_the_reference_one_and_then_zeros(
    fixtures: Path, speech: NDArray[np.float32]
) -> None:
    """The audio's frames are those of the file and 30 s of silence, as `transcribe` has them."""
    recorded = torch.from_numpy(load(fixtures / "mel" / "openai_mel80_30s.bin", 80))
    mel = LogMelSpectrogram(80)
    window = (extract(speech, 0, 150), 150, LogMaximum(80)(speech))
    row = mel.windows([window], 3000, Padding.MEL)[0]
    assert (row[:, :150] - recorded[:, :150]).abs().max() < TOLERANCE
    assert not row[:, 150:].any()
