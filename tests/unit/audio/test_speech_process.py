"""The detector's process: it answers, survives what happens to it, and leaves nothing."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

from service.audio import wav
from service.audio.speech_process import SpeechProcess
from service.audio.vad import SpeechMap, SpeechModels
from service.errors import Unavailable
from tests.api.live import until
from tests.unit.audio.test_vad import Waveform

Detectors = Callable[[], list[psutil.Process]]


def chunks(samples: Waveform) -> Waveform:
    return samples[: len(samples) // 512 * 512].reshape(-1, 512)


@pytest.fixture
def spoken(samples: Path) -> Waveform:
    data = (samples / "zero_three_five_one.wav").read_bytes()
    return chunks(wav.read_samples(data, wav.parse(data)))


def all_detectors() -> list[psutil.Process]:
    children = psutil.Process().children()
    return [child for child in children if "speech_child" in " ".join(child.cmdline())]


@pytest.fixture
def detectors() -> Detectors:
    """Return what finds the detectors of this test: a server of other tests may have one too."""
    others = all_detectors()
    return lambda: [one for one in all_detectors() if one not in others]


def test_models_in_one_process_hear_as_if_each_were_alone(
    spoken: Waveform, detectors: Detectors
) -> None:
    process = SpeechProcess()
    alone = process.model().hear(spoken)
    assert alone.max() > 0.9
    one, other = process.model(), process.model()
    half = len(spoken) // 2
    first, noise = one.hear(spoken[:half]), other.hear(np.zeros_like(spoken))
    second = one.hear(spoken[half:])
    np.testing.assert_array_equal(np.concatenate([first, second]), alone)
    assert noise.max() < 0.5
    one.reset()
    np.testing.assert_array_equal(one.hear(spoken), alone)
    assert len(detectors()) == 1


def test_it_hears_on_one_thread(spoken: Waveform, detectors: Detectors) -> None:
    """With the four that the package asks for, it takes twenty times as long on two CPUs."""
    process = SpeechProcess()
    process.model().hear(spoken)
    (detector,) = detectors()
    assert detector.num_threads() == 1


def test_hearing_goes_on_in_a_new_process_once_one_has_ended(
    spoken: Waveform, detectors: Detectors
) -> None:
    process = SpeechProcess()
    model = process.model()
    before = model.hear(spoken)
    (detector,) = detectors()
    os.kill(detector.pid, signal.SIGKILL)
    with pytest.raises(Unavailable, match="has ended"):
        model.hear(spoken)
    with pytest.raises(Unavailable, match="has ended"):
        model.hear(spoken)
    model.reset()
    np.testing.assert_array_equal(model.hear(spoken), before)
    np.testing.assert_array_equal(process.model().hear(spoken), before)
    assert len(detectors()) == 1


def test_one_that_does_not_answer_is_ended(
    spoken: Waveform, monkeypatch: pytest.MonkeyPatch, detectors: Detectors
) -> None:
    monkeypatch.setattr("service.audio.speech_process._TIMEOUT_S", 0.2)
    process = SpeechProcess()
    model = process.model()
    until(lambda: bool(detectors()), "it has its name, which the kernel gives it after it runs")
    (detector,) = detectors()
    detector.suspend()
    with pytest.raises(Unavailable, match="has ended"):
        model.hear(spoken)
    assert not detectors()


def test_a_model_that_nobody_has_is_let_go_there_too(
    spoken: Waveform, detectors: Detectors
) -> None:
    process = SpeechProcess()
    kept = process.model()
    kept.hear(spoken)
    (detector,) = detectors()
    held = detector.memory_info().rss
    for _ in range(50):  # 9 MB each
        process.model().hear(spoken[:1])
    kept.hear(spoken)
    assert detector.memory_info().rss - held < 100e6


def test_nothing_is_left_when_it_is_no_longer_wanted(
    spoken: Waveform, detectors: Detectors
) -> None:
    models = SpeechModels()
    speech = SpeechMap(models, spoken.flatten())
    assert speech.spans(0, 5)
    assert len(detectors()) == 1
    speech.close()
    del models, speech
    gc.collect()
    assert not detectors()


def test_a_process_that_cannot_be_started_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with pytest.raises(Unavailable, match="could not be started"):
        SpeechProcess().model()
