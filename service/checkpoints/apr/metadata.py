"""JSON inside `.apr` files. Knows nothing about what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from service.errors import CheckpointError

MAX_BYTES = 16 << 20
"""Aprender's limit for the metadata of a file."""


def read_object(path: Path, data: memoryview) -> dict[str, Any]:
    """Return the object; of duplicate keys the last one holds.

    Raises:
        CheckpointError: if it is too long, not JSON, or no object.
    """
    if len(data) > MAX_BYTES:
        raise CheckpointError(
            f"{path}: the metadata has {len(data)} bytes, expected at most {MAX_BYTES}"
        )
    try:
        content = json.loads(str(data, "utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: the metadata is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path}: the metadata must be a JSON object, found {type(content).__name__}"
        )
    return content
