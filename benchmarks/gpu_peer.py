"""transformers on the same device: random weights, a static cache, a batch of windows at a time.

On CUDA, transformers compiles the decoder's forward by itself where the cache is static, with CUDA
graphs (`reduce-overhead`). Knows nothing about our own model but its dimensions.
"""

from __future__ import annotations

import importlib.util
import time
from typing import Any

import torch

from benchmarks.gpu_engine import recordings, wait_for
from service.audio.filterbank import CONTEXT_SAMPLES, SAMPLE_RATE
from service.model import WhisperConfig

IS_THERE = importlib.util.find_spec("transformers") is not None


def peer_windows_a_second(
    config: WhisperConfig, device: torch.device, dtype: torch.dtype, batch: int, n_tokens: int
) -> float:
    """Return the rate of windows of the second of two batches, PCM to last token."""
    from transformers import WhisperFeatureExtractor  # noqa: PLC0415 - it may not be there

    model, features = _model(config, device, dtype), WhisperFeatureExtractor(config.n_mels)
    audio = [window.samples[CONTEXT_SAMPLES:-CONTEXT_SAMPLES] for window in recordings(config)]
    windows = [audio[place % len(audio)] for place in range(batch)]
    seconds = 0.0
    for _ in range(2):  # the first compiles
        began = time.perf_counter()
        found = features(
            windows, sampling_rate=SAMPLE_RATE, return_tensors="pt", device=str(device)
        )
        tokens = _generate(model, found.input_features.to(device, dtype), n_tokens)
        wait_for(device)
        seconds = time.perf_counter() - began
    n_said = tokens.shape[1] - 1
    if tokens.shape[0] != batch or n_said != n_tokens:
        raise RuntimeError(f"transformers said {n_said} tokens in {tokens.shape[0]} windows")
    return batch / seconds


def _generate(model: Any, features: torch.Tensor, n_tokens: int) -> torch.Tensor:  # noqa: ANN401
    """Decode greedily, without Whisper's own long form around it: i64[b 1+n_tokens]."""
    from transformers import GenerationConfig, GenerationMixin  # noqa: PLC0415

    how = GenerationConfig(
        min_new_tokens=n_tokens, max_new_tokens=n_tokens, do_sample=False, num_beams=1,
        cache_implementation="static", decoder_start_token_id=1, pad_token_id=2, eos_token_id=0,
        bos_token_id=1,
    )  # fmt: skip
    with torch.inference_mode():
        tokens: torch.Tensor = GenerationMixin.generate(model, features, generation_config=how)
    return tokens


def _model(config: WhisperConfig, device: torch.device, dtype: torch.dtype) -> Any:  # noqa: ANN401
    from transformers import WhisperConfig as PeerConfig  # noqa: PLC0415
    from transformers import WhisperForConditionalGeneration  # noqa: PLC0415

    dimensions = PeerConfig(
        vocab_size=config.n_vocab, num_mel_bins=config.n_mels, d_model=config.d_model,
        encoder_layers=config.n_audio_layer, encoder_attention_heads=config.n_audio_head,
        encoder_ffn_dim=config.n_audio_ffn, decoder_layers=config.n_text_layer,
        decoder_attention_heads=config.n_text_head, decoder_ffn_dim=config.n_text_ffn,
        max_source_positions=config.n_audio_ctx, max_target_positions=config.n_text_ctx,
        bos_token_id=1, eos_token_id=0, pad_token_id=2, decoder_start_token_id=1,
        attn_implementation="sdpa",
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(device):
        model = WhisperForConditionalGeneration(dimensions)
    return model.to(dtype).requires_grad_(False).eval()
