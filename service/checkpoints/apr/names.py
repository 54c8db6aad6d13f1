"""The names that `.apr` writers give Whisper's tensors, as Hugging Face's. Knows nothing of files.

With and without `model.`; three renamed by one converter; cut after 47 bytes by the first layout.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from service.checkpoints.apr.v1 import STORED_NAME_BYTES
from service.checkpoints.names import HF_HEAD, block_tails
from service.errors import CheckpointError

_RENAMED = {
    "encoder.positional_embedding": "encoder.embed_positions.weight",
    "decoder.token_embedding": "decoder.embed_tokens.weight",
    "decoder.positional_embedding": "decoder.embed_positions.weight",
}
_SHORT = {hf: short for short, hf in _RENAMED.items()}
_LAYER = re.compile(r"((?:encoder|decoder)\.layers\.\d+\.)(.*)", re.DOTALL)
_PREFIX = "model."


def hf_names(path: Path, names: Iterable[str], version: int) -> dict[str, str]:
    """Return Hugging Face's name -> the file's, without the pseudo-tensors `__...__`.

    The first layout's LM head is always the token embedding; its reader passes over another.

    Raises:
        CheckpointError: if two tensors of the file are the same one of Whisper.
    """
    found: dict[str, str] = {}
    for name in names:
        hf = _hf_name(name, version)
        if name.startswith("__") or (version == 1 and hf == HF_HEAD):
            continue
        if hf in found:
            raise CheckpointError(f"{path}: {found[hf]} and {name} are the same tensor")
        found[hf] = name
    return found


def _hf_name(name: str, version: int) -> str:
    bare = name.removeprefix(_PREFIX)
    if bare == HF_HEAD:
        return HF_HEAD
    if version == 1 and len(name.encode()) == STORED_NAME_BYTES:
        bare = _completed(bare)
    return _PREFIX + _RENAMED.get(bare, bare)


def _completed(name: str) -> str:
    """Return the whole of a name that was cut, if there is one such name."""
    parts = _LAYER.fullmatch(name)
    if parts is None:
        return name
    tails = [tail for tail in block_tails() if tail.startswith(parts[2])]
    return parts[1] + tails[0] if len(tails) == 1 else name


def v1_name(hf_name: str) -> str:
    """Return what the first layout calls a tensor, not cut yet."""
    bare = hf_name.removeprefix(_PREFIX)
    return _SHORT.get(bare, bare)


def v2_name(hf_name: str) -> str:
    """Return what Aprender calls a tensor: Hugging Face's name without `model.`."""
    return hf_name.removeprefix(_PREFIX)
