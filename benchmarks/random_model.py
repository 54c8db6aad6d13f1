"""Random weights at the size of a released Whisper: what costs the same, and says nonsense.

Knows nothing about what is measured with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from service.checkpoints.hf import save_hf_folder
from service.model import WhisperConfig, WhisperModel
from service.text.tokenizer import WhisperTokenizer
from service.text.vocabulary import byte_alphabet

N_TIMESTAMPS = 1501
SPECIALS = (
    "<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|translate|>", "<|transcribe|>",
    "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>",
)  # fmt: skip
TINY = WhisperConfig(
    n_mels=80, n_audio_ctx=1500, d_model=384, n_audio_head=6, n_audio_layer=4, n_audio_ffn=1536,
    n_vocab=51_865, n_text_ctx=448, n_text_head=6, n_text_layer=4, n_text_ffn=1536,
)  # fmt: skip
"""The shape of whisper-tiny."""
BASE = WhisperConfig(
    n_mels=80, n_audio_ctx=1500, d_model=512, n_audio_head=8, n_audio_layer=6, n_audio_ffn=2048,
    n_vocab=51_865, n_text_ctx=448, n_text_head=8, n_text_layer=6, n_text_ffn=2048,
)  # fmt: skip
"""The shape of whisper-base."""
LARGE_V3 = WhisperConfig(
    n_mels=128, n_audio_ctx=1500, d_model=1280, n_audio_head=20, n_audio_layer=32, n_audio_ffn=5120,
    n_vocab=51_866, n_text_ctx=448, n_text_head=20, n_text_layer=32, n_text_ffn=5120,
)  # fmt: skip
"""The shape of whisper-large-v3."""
TURBO = replace(LARGE_V3, n_text_layer=4)
"""The shape of whisper-large-v3-turbo."""
MICRO = WhisperConfig(
    n_mels=80, n_audio_ctx=1500, d_model=64, n_audio_head=2, n_audio_layer=1, n_audio_ffn=128,
    n_vocab=2000, n_text_ctx=448, n_text_head=2, n_text_layer=1, n_text_ffn=128,
)  # fmt: skip
"""The shape of no released model: for trying out a benchmark."""
SIZES = {"tiny": TINY, "base": BASE}


def write_random_model(folder: Path, config: WhisperConfig = TINY) -> None:
    """Write a model of this shape with a tokenizer of as many tokens."""
    torch.manual_seed(0)
    state = WhisperModel(config).requires_grad_(False).state_dict()
    save_hf_folder(folder, state, config, tokenizer=tokenizer_of(config.n_vocab))


def tokenizer_of(n_vocab: int) -> WhisperTokenizer:
    """Return a tokenizer of English with so many tokens, most of them fillers."""
    return tokenizer_with(n_vocab - len(SPECIALS) - N_TIMESTAMPS, SPECIALS)


def tokenizer_with(n_text: int, specials: Sequence[str]) -> WhisperTokenizer:
    """Return a tokenizer whose text tokens are the bytes and fillers; then these and times."""
    text = [*byte_alphabet(), *(f"a{number}" for number in range(n_text - 256))]
    added = [*specials, *(f"<|{place * 0.02:.2f}|>" for place in range(N_TIMESTAMPS))]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return WhisperTokenizer(
        {
            "version": "1.0",
            "added_tokens": [
                {"id": len(text) + place, "content": token, **flags, "special": True}
                for place, token in enumerate(added)
            ],
            "pre_tokenizer": {**byte_level, "use_regex": True},
            "decoder": {**byte_level, "use_regex": True},
            "model": {
                "type": "BPE",
                "vocab": {token: number for number, token in enumerate(text)},
                "merges": [],
            },
        }
    )
