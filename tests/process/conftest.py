from __future__ import annotations

from pathlib import Path

import pytest
import torch

from service.checkpoints.hf import save_hf_folder
from service.model import WhisperConfig, WhisperModel
from service.text.tokenizer import load_tokenizer
from tests.parity.tokens import write_tokenizer
from tests.process.running import write_wav


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that says nonsense for as long as it may: 224 tokens a window of 2 s."""
    folder = tmp_path_factory.mktemp("random-model")
    n_vocab = 1800
    write_tokenizer(folder, n_vocab)
    config = WhisperConfig(
        n_mels=80, n_audio_ctx=100, d_model=32, n_audio_head=2, n_audio_layer=1, n_audio_ffn=64,
        n_vocab=n_vocab, n_text_ctx=448, n_text_head=2, n_text_layer=1, n_text_ffn=64,
    )  # fmt: skip
    torch.manual_seed(0)
    model = WhisperModel(config)
    save_hf_folder(folder, model.state_dict(), config, tokenizer=load_tokenizer(folder))
    return folder


@pytest.fixture(scope="session")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wav(tmp_path_factory.mktemp("audio") / "short.wav", 1.0)


@pytest.fixture(scope="session")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten windows of the random model: seconds of decoding."""
    return write_wav(tmp_path_factory.mktemp("audio") / "long.wav", 20.0)


@pytest.fixture(scope="session")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More than the random model decodes before any test is over."""
    return write_wav(tmp_path_factory.mktemp("audio") / "endless.wav", 600.0)
