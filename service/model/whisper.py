"""Whisper's encoder and decoder. Pure forwards: the cache is an argument, never an attribute.

Knows nothing about checkpoints' tensor names, tokens' meaning or who asked. Submodules carry
openai/whisper's names, except that query, key and value are fused.

Architecture: Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision" (2022),
and openai/whisper `model.py`. Parity: tests/parity/.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, pad

from service.model.attention import CrossAttention, SelfAttention, attend, merge_heads, split_heads
from service.model.config import WhisperConfig
from service.model.kv_cache import CacheView, KVCache, to_device

ROW_MULTIPLE = 4
"""Rows of a decode step's linears are padded to a multiple of this (docs/adr/0001).

`TextDecoder.row_multiple` starts here; the engine's start-up probe may raise it.
"""


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
            x = self._convolve(mel)
        else:  # torch and cuDNN choose their convolution by the size of the batch (docs/adr/0001)
            x = torch.cat([self._convolve(window) for window in torch.split(mel, 1)])
        x = x + self.positional_embedding[: x.shape[1]]
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.ln_post(x)
        return out

    def _convolve(self, mel: Tensor) -> Tensor:
        """[b n_mels t] -> [b t/2 d_model]."""
        return gelu(self.conv2(gelu(self.conv1(mel)))).transpose(1, 2)


class DecoderBlock(nn.Module):
    """ln1 -> causal self_attn ; ln2 -> cross_attn ; ln3 -> ffn ; each + residual."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.attn = SelfAttention(config.d_model, config.n_text_head)
        self.attn_ln = nn.LayerNorm(config.d_model)
        self.cross_attn = CrossAttention(config.d_model, config.n_text_head)
        self.cross_attn_ln = nn.LayerNorm(config.d_model)
        self.mlp = feed_forward(config.d_model, config.n_text_ffn)
        self.mlp_ln = nn.LayerNorm(config.d_model)

    def forward(self, x: Tensor, encoder_output: Tensor) -> Tensor:
        """[b t d_model], [b k d_model] -> [b t d_model], all positions at once."""
        x = x + self.attn(self.attn_ln(x), causal=True)
        x = x + self.cross_attn(self.cross_attn_ln(x), encoder_output)
        out: Tensor = x + self.mlp(self.mlp_ln(x))
        return out

    def decode(self, x: Tensor, layer: int, view: CacheView) -> Tensor:
        """[n d_model] -> [n d_model], with the first b*q rows attending over the cache.

        `n` may be larger than b*q: the rest is padding for the linears, which attends to nothing.
        """
        n_rows, n_query = view.write_index.shape
        real = n_rows * n_query

        def padded(context: Tensor) -> Tensor:  # [b h q d] -> [n d_model]
            flat = merge_heads(context).flatten(0, 1)
            return pad(flat, (0, 0, 0, x.shape[0] - real))

        def rows(flat: Tensor) -> Tensor:  # [n c] -> [b q c]
            return torch.unflatten(flat[:real], 0, (n_rows, n_query))

        n_head = self.attn.n_head
        query, key, value = (
            split_heads(part, n_head)
            for part in rows(self.attn.qkv(self.attn_ln(x))).chunk(3, dim=-1)
        )
        keys, values = view.self_kv[layer].unbind(0)  # [b h k d]
        keys[view.row_index, :, view.write_index] = key.transpose(1, 2)
        values[view.row_index, :, view.write_index] = value.transpose(1, 2)
        x = x + self.attn.out(padded(attend(query, keys, values, view.self_bias)))
        query = split_heads(rows(self.cross_attn.query(self.cross_attn_ln(x))), n_head)
        keys, values = view.cross_kv[layer].unbind(0)
        x = x + self.cross_attn.out(padded(attend(query, keys, values, view.cross_bias)))
        out: Tensor = x + self.mlp(self.mlp_ln(x))
        return out


class TextDecoder(nn.Module):
    """Tokens to logits, given the encoder's output or its cached keys and values."""

    head: nn.Parameter | None

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.n_vocab, config.d_model)
        self.positional_embedding = nn.Parameter(torch.zeros(config.n_text_ctx, config.d_model))
        self.blocks = nn.ModuleList(DecoderBlock(config) for _ in range(config.n_text_layer))
        self.ln = nn.LayerNorm(config.d_model)
        head = torch.zeros(config.n_vocab, config.d_model) if config.separate_head else None
        self.register_parameter("head", None if head is None else nn.Parameter(head))
        self.row_multiple = ROW_MULTIPLE

    def _layers(self) -> list[DecoderBlock]:
        return [cast("DecoderBlock", block) for block in self.blocks]

    def logits(self, x: Tensor) -> Tensor:
        """[... d_model] -> f32[... n_vocab], by the token embedding unless the head is separate."""
        head = self.token_embedding.weight if self.head is None else self.head
        return linear(self.ln(x), head).float()

    def forward(self, tokens: Tensor, encoder_output: Tensor) -> Tensor:
        """i64[b t], [b k d_model] -> logits f32[b t n_vocab], teacher-forced."""
        x = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x, encoder_output)
        return self.logits(x)

    def cross_kv(self, encoder_output: Tensor) -> Tensor:
        """[b t d_model] -> [b l 2 h t d], what `KVCache.write_cross` stores per window."""
        layers = [
            torch.stack(block.cross_attn.project_key_value(encoder_output), dim=1)
            for block in self._layers()
        ]
        return torch.stack(layers, dim=1)

    def decode(self, tokens: Tensor, view: CacheView) -> Tensor:
        """i64[b q] -> hidden states before the LM head [n d_model], `n` = b*q padded.

        Writes the new keys and values through the view.
        """
        real = tokens.numel()
        padding = -real % self.row_multiple
        ids = pad(tokens.flatten(), (0, padding))
        positions = pad(view.write_index.flatten(), (0, padding))
        x: Tensor = self.token_embedding(ids) + self.positional_embedding[positions]
        for layer, block in enumerate(self._layers()):
            x = block.decode(x, layer, view)
        return x


class WhisperModel(nn.Module):
    """The whole model. One per process.

    Inference is `encode` -> `cross_kv` into a `KVCache` -> `prefill` once, then `decode` per token.
    `forward` is the teacher-forced pass over both halves, for training and parity tests.
    """

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = AudioEncoder(config)
        self.decoder = TextDecoder(config)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.decoder.positional_embedding.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.decoder.positional_embedding.dtype

    def forward(self, mel: Tensor, tokens: Tensor) -> Tensor:
        """[b n_mels t], i64[b s] -> logits f32[b s n_vocab]."""
        out: Tensor = self.decoder(tokens, self.encoder(mel))
        return out

    def encode(self, mel: Tensor) -> Tensor:
        """[b n_mels t] -> encoder_output [b t/2 d_model]."""
        out: Tensor = self.encoder(mel)
        return out

    def prefill(
        self, tokens: list[int], cache: KVCache, row: int, *, logits_at: tuple[int, ...]
    ) -> Tensor:
        """Decode a prompt on one row from position 0 -> logits f32[len(logits_at) n_vocab].

        The prompt runs alone and padded by its own length, so its bits do not depend on what else
        runs. Keys written for the padding lie after the prompt and are overwritten before any row
        may look at them.
        """
        length = min(-(-len(tokens) // 32) * 32, cache.n_text_ctx)
        ids = to_device(tokens + [0] * (length - len(tokens)), cache.device)
        hidden = self.decoder.decode(ids[None], cache.view(row, [0], length))
        padded = logits_at + logits_at[-1:] * (-len(logits_at) % self.decoder.row_multiple)
        wanted = torch.stack([hidden[position] for position in padded])
        return self.decoder.logits(wanted)[: len(logits_at)]

    def decode(
        self, tokens: Tensor, positions: list[int], cache: KVCache, *, first: int = 0
    ) -> Tensor:
        """One token for each of the rows [first, first + b): i64[b] -> logits f32[b n_vocab]."""
        hidden = self.decoder.decode(tokens[:, None], cache.view(first, positions, 1))
        return self.decoder.logits(hidden)[: tokens.shape[0]]
