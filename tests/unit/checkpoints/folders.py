"""Changes to a model folder, and what loading it then says."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from torch import Tensor

from service.checkpoints import load_checkpoint
from service.errors import CheckpointError

Edit = Callable[[dict[str, Tensor]], None]


def edit_tensors(folder: Path, edit: Edit) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")


def edit_json(path: Path, changes: Mapping[str, object], *, drop: str | None = None) -> None:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) | dict(changes)
    content.pop(drop or "", None)
    path.write_text(json.dumps(content), encoding="utf-8")


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder)
    message = caught.value.message
    assert str(folder) in message
    assert "\n" not in message
    return message
