"""The forwards: cached and teacher-forced agree, and a batch is its windows one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from service.model import KVCache, RowGroup, WhisperConfig, WhisperModel

CONFIG = WhisperConfig(
    n_mels=80, n_audio_ctx=64, d_model=32, n_audio_head=2, n_audio_layer=2, n_audio_ffn=64,
    n_vocab=50, n_text_ctx=96, n_text_head=2, n_text_layer=3, n_text_ffn=64,
    window_rounding_frames=64,
)  # fmt: skip


@pytest.fixture
def model() -> WhisperModel:
    generator = torch.Generator().manual_seed(0)
    model = WhisperModel(CONFIG).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3, generator=generator)
    return model


@pytest.mark.parametrize(
    ("rounding", "shortest", "content", "frames"),
    [
        (0, 0, 1, 128), (0, 0, 128, 128), (8, 0, 1, 8), (8, 0, 9, 16), (8, 0, 127, 128),
        (8, 30, 1, 32), (8, 30, 32, 32), (8, 30, 33, 40), (48, 0, 100, 128),
    ],
)  # fmt: skip
def test_a_window_is_as_long_as_its_content_rounded_up_unless_the_model_wants_it_full(
    rounding: int, shortest: int, content: int, frames: int
) -> None:
    config = replace(CONFIG, window_rounding_frames=rounding, shortest_window_frames=shortest)
    assert config.window_frames(content) == frames


def mel(n_windows: int, n_frames: int) -> torch.Tensor:
    return torch.randn(n_windows, 80, n_frames, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("n_frames", [64, 128])
@pytest.mark.parametrize("n_windows", [2, 3, 5])
def test_window_is_encoded_to_the_same_bits_in_every_batch(
    model: WhisperModel, n_windows: int, n_frames: int
) -> None:
    windows = mel(n_windows, n_frames)
    with torch.inference_mode():
        together = model.encode(windows)
        for row in range(n_windows):
            assert torch.equal(together[row], model.encode(windows[row : row + 1])[0])


def test_training_encodes_what_serving_encodes(model: WhisperModel) -> None:
    windows = mel(3, 128)
    with torch.no_grad():
        served = model.eval().encode(windows)
        trained = model.train().encode(windows)
    assert torch.allclose(served, trained, atol=1e-4)


@pytest.mark.parametrize("n_prompt", [1, 4, 33])
@pytest.mark.parametrize("row", [0, 2])
def test_prefill_and_decode_agree_with_the_teacher_forced_forward(
    model: WhisperModel, n_prompt: int, row: int
) -> None:
    tokens = torch.arange(n_prompt + 5) * 7 % 50
    with torch.inference_mode():
        encoder_output = model.encode(mel(1, 128))
        expected = model.decoder(tokens[None], encoder_output)[0]
        cache = KVCache(CONFIG, 4, 4)
        cache.write_cross(row, model.decoder.cross_kv(encoder_output)[0])
        place = RowGroup(row, row, 1)
        first = model.prefill(tokens[:n_prompt].tolist(), cache, place, logits_at=(0, n_prompt - 1))
        assert torch.allclose(first, expected[[0, n_prompt - 1]], atol=1e-4)
        for position in range(n_prompt, n_prompt + 5):
            logits = model.decode(tokens[position : position + 1], [position], cache, [place])
            assert torch.allclose(logits[0], expected[position], atol=1e-4)


@pytest.mark.parametrize("n_frames", [63, 130, 0])
def test_mel_of_a_wrong_length_is_refused(model: WhisperModel, n_frames: int) -> None:
    with pytest.raises(ValueError, match="mel frames"):
        model.encode(mel(1, n_frames))
