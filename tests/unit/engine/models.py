"""Small random models for tests of the real runner."""

from __future__ import annotations

import torch

from service.model import WhisperConfig, WhisperModel
from tests.unit.engine.fakes import SPECIAL


def small_config(*, rounding: int = 0, n_audio_ctx: int = 200) -> WhisperConfig:
    return WhisperConfig(
        n_mels=80, n_audio_ctx=n_audio_ctx, d_model=64, n_audio_head=2, n_audio_layer=2,
        n_audio_ffn=128, n_vocab=SPECIAL.n_vocab, n_text_ctx=448, n_text_head=2, n_text_layer=2,
        n_text_ffn=128, window_rounding_frames=rounding,
    )  # fmt: skip


def lively_model(config: WhisperConfig, dtype: torch.dtype = torch.float32) -> WhisperModel:
    """A random model whose logits are spread enough that tokens vary."""
    generator = torch.Generator().manual_seed(1)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = WhisperModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                scale = 0.2 if "embedding" in name else 0.4
                parameter.normal_(0, scale, generator=generator)
    return model.to(dtype)
