"""One random model, in every peer's format, that says the same tokens in each of them.

Weights are random and seeded, but for the decoder's positions: position `p` points at the embedding
of the `p`-th token of a fixed text, and from its end on at end-of-text. So every engine decodes
the same number of the same tokens by its own rules, in its own numerics, and none has to be forced;
who decodes fewer is found out. All the arithmetic is that of any other weights.

Knows nothing about engines.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.random_model import SPECIALS, tokenizer_with
from service.checkpoints.hf import save_hf_folder
from service.checkpoints.names import Naming
from service.checkpoints.state import parts_of
from service.model import WhisperConfig, WhisperModel
from service.text.languages import LANGUAGES
from service.text.tokenizer import WhisperTokenizer

N_LANGUAGES = 99
N_TEXT = 50_257
EOT = N_TEXT
N_PROMPT = 4
"""Start of transcript, language, task, no timestamps."""
SPOKEN = (*range(367, 438), *range(439, 532))
"""Plain words in OpenAI's vocabulary; no engine suppresses any of them."""
LOUDNESS = 4.0
"""Of a position, in token embeddings."""


def spoken(n_tokens: int) -> list[int]:
    """Return the text, without end-of-text.

    Raises:
        ValueError: if it is to be longer than there are words.
    """
    if not 0 < n_tokens <= len(SPOKEN):
        raise ValueError(f"{n_tokens} tokens: there are 1 to {len(SPOKEN)}")
    return list(SPOKEN[:n_tokens])


def random_model(config: WhisperConfig, n_tokens: int) -> WhisperModel:
    """Return the model that says `n_tokens` tokens about everything."""
    torch.manual_seed(0)
    model = WhisperModel(config).requires_grad_(False).eval()
    embedding = model.decoder.token_embedding.weight
    positions = model.decoder.positional_embedding
    ends = torch.full((config.n_text_ctx,), EOT)
    ends[N_PROMPT - 1 : N_PROMPT - 1 + n_tokens] = torch.tensor(spoken(n_tokens))
    positions[N_PROMPT - 1 :] = LOUDNESS * embedding[ends[N_PROMPT - 1 :]]
    return model


def multilingual_tokenizer() -> WhisperTokenizer:
    """Return a tokenizer with the ids of OpenAI's multilingual models; its words are fillers."""
    languages = [f"<|{code}|>" for code in list(LANGUAGES)[:N_LANGUAGES]]
    first, last = SPECIALS[:2], [name for name in SPECIALS[2:] if name != "<|en|>"]
    return tokenizer_with(N_TEXT, [*first, *languages, *last])


def write(folder: Path, config: WhisperConfig, n_tokens: int) -> None:
    """Write the model for all but whisper.cpp, whose format `ggml.py` writes.

    `hf/` is for transformers, and CTranslate2's source; `unpadded/` is the same for windows of any
    length; `openai.pt` is openai-whisper's.
    """
    model, tokenizer = random_model(config, n_tokens), multilingual_tokenizer()
    state = model.state_dict()
    save_hf_folder(folder / "hf", state, config, tokenizer=tokenizer)
    unpadded = dataclasses.replace(config, window_rounding_frames=100)
    save_hf_folder(folder / "unpadded", state, unpadded, tokenizer=tokenizer)
    weights = openai_state(state, config)
    dims = {
        "n_mels": config.n_mels, "n_audio_ctx": config.n_audio_ctx,
        "n_audio_state": config.d_model, "n_audio_head": config.n_audio_head,
        "n_audio_layer": config.n_audio_layer, "n_vocab": config.n_vocab,
        "n_text_ctx": config.n_text_ctx, "n_text_state": config.d_model,
        "n_text_head": config.n_text_head, "n_text_layer": config.n_text_layer,
    }  # fmt: skip
    torch.save({"dims": dims, "model_state_dict": weights}, folder / "openai.pt")


def openai_state(state: dict[str, Tensor], config: WhisperConfig) -> dict[str, Tensor]:
    """Return the weights under OpenAI's names."""
    return {
        name: tensor.clone().contiguous() for name, tensor in parts_of(state, config, Naming.OPENAI)
    }
