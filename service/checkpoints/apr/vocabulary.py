"""The vocabulary in an `.apr` file, to a tokenizer and back. Knows nothing about tensors.

It stands in the metadata in GPT-2's printable alphabet, in a section as raw bytes, or both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from service.checkpoints.apr.sections import read_vocabulary, write_vocabulary
from service.errors import CheckpointError
from service.text.tokenizer import WhisperTokenizer
from service.text.vocabulary import byte_alphabet

_SPECIAL = re.compile(r"<\|[^|]*\|>")
_TIMESTAMP = re.compile(r"<\|\d+\.\d\d\|>")
_CHARACTERS = {byte: character for character, byte in byte_alphabet().items()}
_FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
_BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}
TOKENS_KEY, MERGES_KEY = "tokenizer.vocabulary", "tokenizer.merges"


def embedded_tokenizer(
    path: Path,
    metadata: Mapping[str, Any],
    section: memoryview | None,
    is_multilingual: bool | None,
) -> WhisperTokenizer | None:
    """Return the tokenizer in the file, None if it has none.

    Raises:
        CheckpointError: if it is damaged, or no vocabulary of Whisper's.
    """
    written = metadata.get(TOKENS_KEY)
    if not isinstance(written, list) and section is None:
        return None
    try:
        if isinstance(written, list):
            definition = _from_metadata(path, written, metadata.get(MERGES_KEY) or [])
        else:
            definition = _from_section(path, section or memoryview(b""))
        return WhisperTokenizer(definition, is_multilingual=is_multilingual)
    except CheckpointError as error:
        where = "" if error.message.startswith(str(path)) else f"{path}: its vocabulary: "
        raise CheckpointError(where + error.message) from error


def _from_metadata(path: Path, tokens: list[Any], merges: Any) -> dict[str, Any]:  # noqa: ANN401
    if not all(isinstance(token, str) for token in tokens):
        raise CheckpointError(f"{path}: {TOKENS_KEY} must list strings")
    if not isinstance(merges, list) or not all(
        isinstance(merge, str) and merge.count(" ") == 1 for merge in merges
    ):
        raise CheckpointError(f"{path}: {MERGES_KEY} must list pairs such as 'a b'")
    return _definition(tokens, merges)


def _from_section(path: Path, section: memoryview) -> dict[str, Any]:
    tokens, merges = read_vocabulary(path, section)
    seen: dict[bytes, int] = {}
    for token_id, token in enumerate(tokens):
        if token and seen.setdefault(token, token_id) != token_id:
            raise CheckpointError(
                f"{path}: its vocabulary is damaged: the tokens {seen[token]} and {token_id} are "
                "the same. A converter of this format writes all text beyond ASCII so; name "
                "another tokenizer (EARSHOT_TOKENIZER: a folder, a tokenizer.json, a hub id)"
            )
    pairs = (f"{_printable(first)} {_printable(second)}" for first, second in merges)
    return _definition([_spelled(token) for token in tokens], list(pairs))


def _spelled(token: bytes) -> str:
    """Return a token as a tokenizer.json spells it: special ones as they are."""
    text = token.decode("utf-8", errors="replace")
    return text if _SPECIAL.fullmatch(text) else _printable(token)


def _printable(token: bytes) -> str:
    return "".join(_CHARACTERS[byte] for byte in token)


def _definition(tokens: Sequence[str], merges: list[str]) -> dict[str, Any]:
    """Return the content of a `tokenizer.json`. An empty string is an id without a token."""
    if not any(tokens):
        raise CheckpointError("the vocabulary is empty")
    special = {i: text for i, text in enumerate(tokens) if _SPECIAL.fullmatch(text)}
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": i, "content": text, **_FLAGS, "special": not _TIMESTAMP.fullmatch(text)}
            for i, text in special.items()
        ],
        "pre_tokenizer": _BYTE_LEVEL,
        "decoder": _BYTE_LEVEL,
        "model": {
            "type": "BPE",
            "vocab": {text: i for i, text in enumerate(tokens) if text and i not in special},
            "merges": merges,
        },
    }


def to_section(tokenizer: WhisperTokenizer) -> bytes:
    """Return the vocabulary section: token id = position, as raw bytes."""
    tokens = [_raw(tokenizer, i) for i in range(tokenizer.n_vocab)]
    alphabet = byte_alphabet()
    merges = [
        (bytes(map(alphabet.__getitem__, first)), bytes(map(alphabet.__getitem__, second)))
        for first, second in _merges(tokenizer)
    ]
    return write_vocabulary(tokens, merges)


def _merges(tokenizer: WhisperTokenizer) -> list[tuple[str, str]]:
    """Return the merges, which a tokenizer.json spells as pairs or as "a b"."""
    merges = json.loads(tokenizer.to_json())["model"].get("merges", [])
    split = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in merges)
    return [(first, second) for first, second in split]


def _raw(tokenizer: WhisperTokenizer, token_id: int) -> bytes:
    if tokenizer.is_text(token_id):
        return tokenizer.token_bytes(token_id)
    return (tokenizer.token_text(token_id) or "").encode()


def to_metadata(tokenizer: WhisperTokenizer) -> dict[str, Any]:
    """Return the keys that Aprender's importer writes."""
    return {
        TOKENS_KEY: [tokenizer.token_text(i) or "" for i in range(tokenizer.n_vocab)],
        MERGES_KEY: [f"{first} {second}" for first, second in _merges(tokenizer)],
        "tokenizer.vocab_size": tokenizer.n_vocab,
        "tokenizer.model_type": "BPE",
        "tokenizer.bos_token_id": tokenizer.eot,
        "tokenizer.eos_token_id": tokenizer.eot,
    }
