"""The model as it is trained: initialisation, dropout, and what is thrown away afterwards.

Uses the service's own `WhisperModel` unchanged. Knows nothing about data or files.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from service.model import WhisperConfig, WhisperModel
from service.model.attention import CrossAttention, SelfAttention
from service.model.encoder import sinusoids
from training.labels import N_TAGS, PHONES
from training.spectrogram import ROUNDING_FRAMES
from training.vocabulary import N_VOCAB, TIMESTAMP_BEGIN

WIDTH, HEAD_WIDTH, LAYERS = 160, 32, 4


def builtin_config() -> WhisperConfig:
    """Return the dimensions of the built-in model."""
    return WhisperConfig(
        n_mels=80,
        n_audio_ctx=1500,
        d_model=WIDTH,
        n_audio_head=WIDTH // HEAD_WIDTH,
        n_audio_layer=LAYERS,
        n_audio_ffn=4 * WIDTH,
        n_vocab=N_VOCAB,
        n_text_ctx=448,
        n_text_head=WIDTH // HEAD_WIDTH,
        n_text_layer=LAYERS,
        n_text_ffn=4 * WIDTH,
        window_rounding_frames=ROUNDING_FRAMES,
    )


class Trainee(nn.Module):
    """A WhisperModel, and over the encoder's output two heads that are not shipped.

    At each position, `speller` says which phone is heard, and `tagger` which digit, if any.
    """

    def __init__(self, config: WhisperConfig, dropout: float = 0.04) -> None:
        super().__init__()
        self.whisper = WhisperModel(config)
        self.speller = nn.Linear(config.d_model, len(PHONES))
        self.tagger = nn.Linear(config.d_model, N_TAGS)
        self.dropout = dropout
        initialise(self.whisper)
        for module in self.whisper.modules():
            if isinstance(module, SelfAttention | CrossAttention):
                module.out.register_forward_hook(self._drop)
            elif isinstance(module, nn.Sequential):  # the feed-forwards
                module.register_forward_hook(self._drop)
        self.whisper.encoder.conv2.register_forward_hook(self._drop)

    def named(self, encoder_output: Tensor) -> tuple[Tensor, Tensor]:
        """Return phone logits f32[b t/2 phones] and tag logits f32[b t/2 tags]."""
        return self.speller(encoder_output).float(), self.tagger(encoder_output).float()

    @torch.no_grad()
    def first_times(self, encoder_output: Tensor, inputs: Tensor, at: Tensor) -> Tensor:
        """Return the timestamps that the decoder would begin with, were it forced to.

        Shapes: encoder_output [b t/2 d_model], inputs i64[b s], at i64[b], the position of
        `<|startoftranscript|>` -> i64[b].
        """
        logits = self.whisper.decoder(inputs, encoder_output)
        begin: Tensor = logits[torch.arange(len(at)), at, TIMESTAMP_BEGIN:]
        return TIMESTAMP_BEGIN + begin.argmax(dim=-1)

    def _drop(self, module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        """Drop channels of an item at all its positions: cheaper than one by one."""
        if not module.training:
            return output
        channel = 2 if module is not self.whisper.encoder.conv2 else 1
        shape = [len(output), 1, 1]
        shape[channel] = output.shape[channel]
        kept = torch.rand(shape) >= self.dropout
        return output * (kept / (1 - self.dropout)).to(output.dtype)


def initialise(model: WhisperModel) -> None:
    """Small embeddings, quiet residual branches, and no bias on keys, now and while training.

    The convolutions keep the scale of the mel, which PyTorch's default would make ten times
    smaller than the positions that are added to it.
    """
    for convolution in (model.encoder.conv1, model.encoder.conv2):
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        assert convolution.bias is not None
        nn.init.zeros_(convolution.bias)
    nn.init.normal_(model.decoder.token_embedding.weight, std=0.02)
    positions = sinusoids(model.config.n_text_ctx, model.config.d_model)
    model.decoder.positional_embedding.data.copy_(0.02 * positions)
    quiet = 1 / math.sqrt(2 * LAYERS)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
        if isinstance(module, SelfAttention | CrossAttention):
            module.out.weight.data.mul_(quiet)
        elif isinstance(module, nn.Sequential):
            last = module[2]
            assert isinstance(last, nn.Linear)
            last.weight.data.mul_(quiet)
    width = model.config.d_model
    for module in model.modules():
        if isinstance(module, SelfAttention):
            _keep_zero(module.qkv.bias, slice(width, 2 * width))
        elif isinstance(module, CrossAttention):
            _keep_zero(module.key_value.bias, slice(0, width))


def _keep_zero(bias: Tensor, part: slice) -> None:
    def mask(gradient: Tensor) -> Tensor:
        masked = gradient.clone()
        masked[part] = 0
        return masked

    bias.register_hook(mask)  # type: ignore[no-untyped-call]


class AveragedWeights:
    """An exponential moving average of the weights; it is what is evaluated and shipped."""

    def __init__(self, model: Trainee, decay: float = 0.998) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: Trainee, step: int) -> None:
        """Follow the model; faster at the beginning."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for mine, theirs in zip(self.model.parameters(), model.parameters(), strict=True):
            mine.lerp_(theirs, 1 - decay)
