"""The files of a tokenizer: what tokens there are and under which ids. Knows nothing about Whisper.

Both layouts in which checkpoints carry a byte-level BPE vocabulary end as the content of a
`tokenizer.json`, the one thing that the `tokenizers` library builds from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from service.errors import CheckpointError

_SPECIAL = re.compile(r"<\|[^|]*\|>")


def byte_alphabet() -> dict[str, int]:
    """Return GPT-2's printable character for each byte, as character -> byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in set(printable)]
    characters = [chr(byte) for byte in printable]
    characters += [chr(256 + place) for place in range(len(hidden))]
    return dict(zip(characters, printable + hidden, strict=True))


def read_definition(path: Path) -> dict[str, Any]:
    """Return the content of `tokenizer.json`, assembled from the older files where there is none.

    Args:
        path: a folder, or a `tokenizer.json` file itself.

    Raises:
        CheckpointError: if there are no such files, or they are damaged.
    """
    whole = path if path.is_file() else path / "tokenizer.json"
    if whole.is_file():
        return _read_json(whole)
    if (path / "vocab.json").is_file() and (path / "merges.txt").is_file():
        return _assemble(path)
    raise CheckpointError(f"{path}: no tokenizer.json, and no vocab.json with merges.txt either")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def _assemble(folder: Path) -> dict[str, Any]:
    """Return a `tokenizer.json` definition from the older set of files."""
    vocab = _read_json(folder / "vocab.json")
    try:
        lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / 'merges.txt'}: not readable: {error}") from error
    merges = [line.rstrip("\r") for line in lines if not line.startswith("#version")]
    added_path = folder / "added_tokens.json"
    added = _read_json(added_path) if added_path.is_file() else {}
    inside = {text: i for text, i in vocab.items() if _SPECIAL.fullmatch(text)}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {
        "version": "1.0",
        "added_tokens": [
            _added_token(text, i)
            for text, i in sorted({**inside, **added}.items(), key=itemgetter(1))
        ],
        "pre_tokenizer": {**byte_level, "use_regex": True},
        "decoder": {**byte_level, "use_regex": True},
        "model": {"type": "BPE", "vocab": vocab, "merges": [m for m in merges if m]},
    }


def _added_token(text: str, token_id: int) -> dict[str, Any]:
    shape = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    special = _SPECIAL.fullmatch(text) is not None
    return {"id": token_id, "content": text, **shape, "special": special}


def build_bpe(definition: Mapping[str, Any]) -> Tokenizer:
    """Return a tokenizer that knows no added tokens, so that text can never become one."""
    plain = {**definition, "added_tokens": [], "post_processor": None}
    try:
        return Tokenizer.from_str(json.dumps(plain))
    except Exception as error:  # the library raises nothing more specific
        raise CheckpointError(f"not a tokenizer that `tokenizers` can build: {error}") from error


def read_vocabulary(definition: Mapping[str, Any]) -> tuple[dict[str, int], set[int]]:
    """Return text -> id of all tokens, and the ids of the special ones."""
    try:
        kinds = (definition["model"]["type"], _byte_level(definition.get("decoder")))
        ids = dict(definition["model"]["vocab"])
        added = {t["content"]: (t["id"], bool(t["special"])) for t in definition["added_tokens"]}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(f"not the layout of a tokenizer.json: {error!r}") from error
    if kinds != ("BPE", True):
        raise CheckpointError(f"expected byte-level BPE, found a {kinds[0]} tokenizer")
    ids.update({text: token_id for text, (token_id, _) in added.items()})
    if not all(isinstance(i, int) and i >= 0 for i in ids.values()):
        raise CheckpointError("token ids must be integers from 0")
    special = {token_id for text, token_id in ids.items() if _SPECIAL.fullmatch(text)}
    return ids, special | {token_id for token_id, flagged in added.values() if flagged}


def _byte_level(decoder: Mapping[str, Any] | None) -> bool:
    if not decoder:
        return False
    return any(part["type"] == "ByteLevel" for part in (decoder, *decoder.get("decoders", ())))
