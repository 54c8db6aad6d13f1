"""A small vocabulary with words, punctuation, bytes and Whisper's special tokens.

The scripts that record openai-whisper and the tests build their tokenizers from the same list.
Knows nothing about Earshot or the references.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

LANGUAGES = ("en", "zh", "de", "es", "ru")
"""The first language tokens, in Whisper's order; "zh" is written without spaces."""
N_TIMESTAMPS = 1501
_MARKS = (b".", b",", b"?", b" (", b")", b" \xe2\x80\x9c", b"\xe3\x80\x82", b" -", b" '", b'"')


def text_tokens(n_text: int) -> list[bytes]:
    """Return what each text token stands for: every byte first, then marks, words, syllables."""
    found = [bytes([byte]) for byte in range(256)]
    found += [mark for mark in _MARKS if mark not in found]
    number = 0
    while len(found) < n_text:
        word = (b" w%d", b"s%d", b" v%d", b"\xc3\xa9%d")[number % 4]
        found.append(word % number)
        number += 1
    return found[:n_text]


def special_tokens(n_languages: int, n_timestamps: int = N_TIMESTAMPS) -> list[str]:
    """Return the special tokens, in Whisper's order; their ids follow those of the text."""
    return [
        "<|endoftext|>",
        "<|startoftranscript|>",
        *(f"<|{code}|>" for code in LANGUAGES[:n_languages]),
        "<|translate|>",
        "<|transcribe|>",
        "<|startoflm|>",
        "<|startofprev|>",
        "<|nospeech|>",
        "<|notimestamps|>",
        *(f"<|{i * 0.02:.2f}|>" for i in range(n_timestamps)),
    ]


def n_text_of(n_vocab: int, n_languages: int) -> int:
    """Return how many text tokens a vocabulary of this size has."""
    return n_vocab - len(special_tokens(n_languages))


def tokenizer_definition(
    text: Sequence[bytes], special: Sequence[str], alphabet: Mapping[int, str]
) -> Any:
    """Return the content of a `tokenizer.json`.

    Args:
        text: what each text token stands for.
        special: the tokens after them.
        alphabet: byte -> the character that byte-level vocabularies write for it.
    """
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    first_timestamp = special.index("<|0.00|>")
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": len(text) + i, "content": token, **flags, "special": i < first_timestamp}
            for i, token in enumerate(special)
        ],
        "pre_tokenizer": {**byte_level, "use_regex": True},
        "decoder": {**byte_level, "use_regex": True},
        "model": {
            "type": "BPE",
            "vocab": {"".join(alphabet[byte] for byte in t): i for i, t in enumerate(text)},
            "merges": [],
        },
    }
