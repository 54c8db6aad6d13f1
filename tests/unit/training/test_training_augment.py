"""Augmentation keeps lengths, and changes what it should."""

import numpy as np
import torch

from training import augment

RNG = np.random.default_rng(0)
SECOND = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000).astype(np.float32)


def test_faster_is_shorter_and_higher() -> None:
    fast = augment.change_speed(SECOND, 1.25)
    assert len(fast) == 12_800
    crossings = int((np.diff(np.signbit(fast)) != 0).sum())
    assert abs(crossings / 0.8 / 2 - 550) < 3


def test_noise_is_added_at_the_wanted_ratio() -> None:
    noise = RNG.standard_normal(16_000).astype(np.float32)
    added = augment.add_noise(SECOND, noise, 10.0) - SECOND
    ratio = 10 * np.log10(np.mean(SECOND**2) / np.mean(added**2))
    assert abs(ratio - 10.0) < 0.01


def test_waveform_effects_keep_the_length() -> None:
    for changed in (
        augment.room(RNG, SECOND),
        augment.distort(RNG, SECOND),
        augment.narrow(RNG, SECOND),
        augment.tones(RNG, 16_000),
        augment.coloured_noise(RNG, 16_000),
        augment.set_level(SECOND, 0.1),
    ):
        assert changed.shape == (16_000,)
        assert changed.dtype == np.float32


def test_a_narrow_recording_has_nothing_above_what_its_recorder_keeps() -> None:
    noise = RNG.standard_normal(16_000).astype(np.float32)
    power = np.abs(np.fft.rfft(augment.narrow(RNG, noise))) ** 2
    assert power[4501:].max() < 1e-6 * power[:3500].mean()
    kept = np.abs(np.fft.rfft(noise)) ** 2
    assert np.allclose(power[:3500], kept[:3500], rtol=1e-3, atol=1e-2)


def test_levels_are_those_of_what_a_telephone_keeps() -> None:
    time = np.arange(1600) / 16_000
    quiet, low, high = (np.sin(2 * np.pi * f * time) for f in (1000, 100, 6000))
    sound = np.concatenate([quiet, 0.1 * quiet, 0.1 * quiet + low + high]).astype(np.float32)
    levels = augment.telephone_levels(sound)
    assert levels.shape == (30,)
    assert np.abs(levels[2:8]).max() < 0.5
    assert np.abs(levels[12:18] + 20).max() < 1
    assert np.abs(levels[22:28] + 20).max() < 3  # the filter rings a little


def test_a_warp_by_one_changes_nothing() -> None:
    matrices = augment.warp_matrices(torch.ones(2))
    assert torch.allclose(matrices, torch.eye(80).expand(2, 80, 80), atol=1e-3)


def test_a_warp_mixes_neighbouring_bands_only() -> None:
    matrices = augment.warp_matrices(torch.tensor([0.8, 1.2]))
    assert torch.allclose(matrices.sum(dim=2), torch.ones(2, 80))
    assert int((matrices > 0).sum(dim=2).max()) <= 2


def test_microphones_are_finite_curves_over_the_bands() -> None:
    curves = augment.microphone_curves(RNG, 5)
    assert curves.shape == (5, 80, 1)
    assert bool(torch.isfinite(curves).all())


def test_masks_leave_the_padding_alone() -> None:
    mel = torch.randn(3, 80, 128)
    before = mel.clone()
    augment.mask_spectrogram(RNG, mel, [100, 100, 100])
    assert torch.equal(mel[:, :, 100:], before[:, :, 100:])
    assert not torch.equal(mel, before)
