from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from service.checkpoints import save_hf_folder
from service.checkpoints.checkpoint import default_generation
from service.model import WhisperConfig, WhisperModel
from service.text import WhisperTokenizer

Make = Callable[..., WhisperTokenizer]


@pytest.fixture(scope="session")
def tokenizer(make_tokenizer: Make) -> WhisperTokenizer:
    return make_tokenizer()


@pytest.fixture(scope="session")
def config(tokenizer: WhisperTokenizer) -> WhisperConfig:
    """Depths, heads and widths that all differ."""
    return WhisperConfig(
        n_mels=80,
        n_audio_ctx=50,
        d_model=24,
        n_audio_head=3,
        n_audio_layer=2,
        n_audio_ffn=40,
        n_vocab=tokenizer.n_vocab,
        n_text_ctx=32,
        n_text_head=4,
        n_text_layer=3,
        n_text_ffn=28,
    )


@pytest.fixture(scope="session")
def model(config: WhisperConfig) -> WhisperModel:
    """Random weights, with the key biases zero as Whisper has them."""
    torch.manual_seed(5)
    model = WhisperModel(config).requires_grad_(False).eval()
    width = config.d_model
    for name, tensor in model.state_dict().items():
        if name.endswith("attn.qkv.bias"):
            tensor[width : 2 * width] = 0
        elif name.endswith("key_value.bias"):
            tensor[:width] = 0
        elif name == "decoder.positional_embedding":
            tensor.normal_()
    return model


@pytest.fixture
def hf_folder(
    tmp_path: Path, model: WhisperModel, config: WhisperConfig, tokenizer: WhisperTokenizer
) -> Path:
    """A complete folder in Hugging Face's layout."""
    folder = tmp_path / "a-model"
    save_hf_folder(
        folder,
        model.state_dict(),
        config,
        tokenizer=tokenizer,
        generation=default_generation(config, tokenizer),
    )
    return folder
