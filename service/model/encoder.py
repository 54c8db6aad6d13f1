"""Whisper's encoder: mel frames to what the decoder attends to. Knows nothing about tokens.

Submodules carry openai/whisper's names, except that query, key and value are fused.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from service.model.attention import SelfAttention
from service.model.config import WhisperConfig


def sinusoids(length: int, channels: int, max_timescale: float = 10_000.0) -> Tensor:
    """Return the encoder's fixed positions, f32[length channels] (openai/whisper `sinusoids`)."""
    if torch.get_default_device().type == "meta":  # whose arithmetic imports all of torch.compile
        return torch.empty(length, channels)
    increment = math.log(max_timescale) / (channels // 2 - 1)
    inverse = torch.exp(-increment * torch.arange(channels // 2))
    scaled = torch.arange(length)[:, None] * inverse[None, :]
    return torch.cat([scaled.sin(), scaled.cos()], dim=1)


def feed_forward(d_model: int, n_ffn: int) -> nn.Sequential:
    """Two linears around an exact GELU."""
    return nn.Sequential(nn.Linear(d_model, n_ffn), nn.GELU(), nn.Linear(n_ffn, d_model))


class EncoderBlock(nn.Module):
    """ln1 -> self_attn -> + residual ; ln2 -> ffn -> + residual."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.attn = SelfAttention(config.d_model, config.n_audio_head)
        self.attn_ln = nn.LayerNorm(config.d_model)
        self.mlp = feed_forward(config.d_model, config.n_audio_ffn)
        self.mlp_ln = nn.LayerNorm(config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        """[b t d_model] -> [b t d_model]."""
        x = x + self.attn(self.attn_ln(x))
        out: Tensor = x + self.mlp(self.mlp_ln(x))
        return out


class AudioEncoder(nn.Module):
    """Mel frames to `encoder_output`."""

    positional_embedding: Tensor

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(config.n_mels, config.d_model, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(config.d_model, config.d_model, kernel_size=3, stride=2, padding=1)
        self.register_buffer("positional_embedding", sinusoids(config.n_audio_ctx, config.d_model))
        self.blocks = nn.ModuleList(EncoderBlock(config) for _ in range(config.n_audio_layer))
        self.ln_post = nn.LayerNorm(config.d_model)

    def forward(self, mel: Tensor) -> Tensor:
        """[b n_mels t] -> encoder_output [b t/2 d_model]; `t` is even and at most `max_frames`.

        Raises:
            ValueError: if `t` is odd or longer than a window.
        """
        n_frames, longest = mel.shape[-1], 2 * self.positional_embedding.shape[0]
        if n_frames % 2 or not 0 < n_frames <= longest:
            raise ValueError(f"{n_frames} mel frames: must be even, and at most {longest}")
        mel = mel.to(self.conv1.weight.dtype)
        if self.training:
            x = self.convolve(mel)
        else:  # torch and cuDNN choose their convolution by the size of the batch (docs/adr/0001)
            x = torch.cat([self.convolve(window) for window in torch.split(mel, 1)])
        x = x + self.positional_embedding[: x.shape[1]]
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.ln_post(x)
        return out

    def convolve(self, mel: Tensor) -> Tensor:
        """[b n_mels t] -> [b t/2 d_model], before positions are added."""
        return gelu(self.conv2(gelu(self.conv1(mel)))).transpose(1, 2)
