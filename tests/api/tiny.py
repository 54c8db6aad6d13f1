"""A tiny random multilingual model for tests: real runner, real rules, nonsense for text."""

from __future__ import annotations

import torch

from service.audio.log_maximum import LogMaximum
from service.decoding.params import SpecialTokens
from service.engine.runner import ModelRunner, RunnerConfig
from service.model import WhisperConfig, WhisperModel
from service.text.tokenizer import WhisperTokenizer
from service.transcription.params import ModelFacts
from tests.api.live import MODEL, Parts


def tiny_parts(tokenizer: WhisperTokenizer, *, rows: int = 4, encode_batch: int = 2) -> Parts:
    """Return a server's parts: windows of 2 s, at most 32 tokens in each."""
    config = WhisperConfig(
        n_mels=80, n_audio_ctx=100, d_model=64, n_audio_head=2, n_audio_layer=2, n_audio_ffn=128,
        n_vocab=tokenizer.n_vocab, n_text_ctx=64, n_text_head=2, n_text_layer=2, n_text_ffn=128,
    )  # fmt: skip
    model = random_model(config)
    special = SpecialTokens.of(tokenizer, config.n_vocab)
    # Up to 4 rows are padded to 4, always the same shape: more need what the probe settles on.
    settings = RunnerConfig(rows, rows, encode_batch=encode_batch, probe=rows > 4)
    facts = ModelFacts(
        name=MODEL,
        n_vocab=config.n_vocab,
        n_text_ctx=config.n_text_ctx,
        max_frames=config.max_frames,
        suppress_tokens=tokenizer.control_tokens,
        begin_suppress_tokens=(tokenizer.eot,),
        max_initial_timestamp_index=50,
    )

    def runner() -> ModelRunner:
        return ModelRunner(model, special, settings)

    return Parts(runner, tokenizer, facts, LogMaximum(80), rows)


def random_model(config: WhisperConfig) -> WhisperModel:
    """Return a model whose tokens vary and hang on what it hears."""
    generator = torch.Generator().manual_seed(1)
    model = WhisperModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                scale = 0.6 if "embedding" in name else 0.2
                parameter.normal_(0, scale, generator=generator)
            elif name.endswith("bias"):  # torch draws them unseeded
                parameter.zero_()
    return model
