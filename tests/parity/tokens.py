"""A tokenizer of any size for random checkpoints, with Whisper's special tokens."""

from __future__ import annotations

import json
from pathlib import Path

from service.text.vocabulary import byte_alphabet

_SPECIALS = (
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|translate|>",
    "<|transcribe|>",
    "<|startoflm|>",
    "<|startofprev|>",
    "<|nospeech|>",
    "<|notimestamps|>",
)
N_TIMESTAMPS = 1501


def write_tokenizer(folder: Path, n_vocab: int) -> Path:
    """Write a tokenizer.json with `n_vocab` tokens: bytes, fillers, specials, timestamps."""
    n_text = n_vocab - len(_SPECIALS) - N_TIMESTAMPS
    bytes_first = list(byte_alphabet())
    text = [*bytes_first, *(f"a{i}" for i in range(n_text - len(bytes_first)))]
    added = [*_SPECIALS, *(f"<|{i * 0.02:.2f}|>" for i in range(N_TIMESTAMPS))]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    definition = {
        "version": "1.0",
        "added_tokens": [
            {"id": n_text + i, "content": token, **flags, "special": i < len(_SPECIALS)}
            for i, token in enumerate(added)
        ],
        "pre_tokenizer": {**byte_level, "use_regex": True},
        "decoder": {**byte_level, "use_regex": True},
        "model": {"type": "BPE", "vocab": {t: i for i, t in enumerate(text)}, "merges": []},
    }
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(definition), encoding="utf-8")
    return path
