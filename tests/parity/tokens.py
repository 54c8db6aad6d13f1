"""Tokenizers of any size for random checkpoints, as the files that a checkpoint comes with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from service.text.vocabulary import byte_alphabet
from tests.parity.vocabulary import n_text_of, special_tokens, text_tokens, tokenizer_definition


def write_tokenizer(folder: Path, n_vocab: int, n_languages: int = 0) -> Path:
    """Write a tokenizer.json with `n_vocab` tokens: bytes, words, specials, timestamps."""
    text = text_tokens(n_text_of(n_vocab, n_languages))
    return write_vocabulary(folder, text, special_tokens(n_languages))


def write_vocabulary(folder: Path, text: Sequence[bytes], special: Sequence[str]) -> Path:
    """Write a tokenizer.json with these text tokens, and the special ones after them."""
    alphabet = {byte: character for character, byte in byte_alphabet().items()}
    path = folder / "tokenizer.json"
    definition = tokenizer_definition(text, special, alphabet)
    path.write_text(json.dumps(definition), encoding="utf-8")
    return path
