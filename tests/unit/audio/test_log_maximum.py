from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from service.audio.log_maximum import LogMaximum
from service.audio.mel import LogMelSpectrogram
from tests.unit.audio.test_mel import THIRTY_SECONDS, noise

IN_A_PROCESS_OF_ITS_OWN = """
import threading
import numpy as np, psutil, torch
from service.audio.log_maximum import LogMaximum

made = []
maker = threading.Thread(target=lambda: made.append(LogMaximum(80)))
maker.start()
maker.join()
np.ones((999, 999), np.float32) @ np.ones((999, 999), np.float32)  # numpy's own threads, if any
before = psutil.Process().num_threads()
made[0](np.random.default_rng(0).normal(0, 0.1, 960_000).astype(np.float32))
print(psutil.Process().num_threads() - before)
torch.set_num_threads(2)
torch.ones(1_000_000).add(1)
print(psutil.Process().num_threads() - before)
"""


@pytest.mark.parametrize("n_mels", [80, 128])
@pytest.mark.parametrize("seconds", [0.0001, 0.01, 2.0, 29.999, 30.0, 61.7])
def test_it_is_that_of_the_whole_file(seconds: float, n_mels: int) -> None:
    mel = LogMelSpectrogram(n_mels)
    waveform = noise(seconds)
    silence = np.zeros(THIRTY_SECONDS, dtype=np.float32)
    padded = np.pad(np.concatenate([waveform, silence]), (200, 0), mode="reflect")
    expected = mel.log_power(torch.from_numpy(padded)[None]).max().item()
    assert LogMaximum(n_mels)(waveform) == pytest.approx(expected, abs=1e-6)


def test_a_click_at_the_very_end_counts() -> None:
    waveform = np.zeros(16_159, dtype=np.float32)
    assert LogMaximum(80)(waveform) == -10.0
    waveform[-1] = 1.0
    assert LogMaximum(80)(waveform) > -6.0


def test_it_takes_no_helpers_of_torch() -> None:
    """With two teams of them on two CPUs, neither waits for work awake (docs/adr/0017)."""
    command = [sys.executable, "-c", IN_A_PROCESS_OF_ITS_OWN]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    own, torchs = map(int, told.stdout.split())
    assert own == 0
    assert torchs > 0, "torch has helpers: if not, this test shows nothing"
