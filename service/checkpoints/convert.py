"""A checkpoint of one format as another. Knows nothing about command lines."""

from __future__ import annotations

import enum
import json
from pathlib import Path
from typing import Any

import torch

from service.checkpoints.apr.write import Progress, write_apr
from service.checkpoints.checkpoint import Checkpoint
from service.checkpoints.hf import save_hf_folder
from service.checkpoints.hf_config import generation_to_json
from service.checkpoints.names import Naming
from service.checkpoints.openai_pt import OWN_KEY, dims_from_config
from service.checkpoints.state import parts_of
from service.checkpoints.whole import check_target, whole_file, whole_folder
from service.errors import CheckpointError


class Target(enum.StrEnum):
    """What can be written."""

    APR_V1 = "apr-v1"
    APR_V2 = "apr-v2"
    HF = "hf"
    OPENAI = "openai"


def target_of(path: Path, quantize: str | None) -> Target:
    """Return the format that a name asks for: `.apr`, `.pt`, otherwise a folder."""
    if path.suffix == ".apr":
        return Target.APR_V1 if quantize == "int8" else Target.APR_V2
    return Target.OPENAI if path.suffix == ".pt" else Target.HF


def convert(
    checkpoint: Checkpoint,
    path: Path,
    target: Target,
    *,
    quantize: str | None = None,
    overwrite: bool = False,
    progress: Progress = lambda _: None,
) -> None:
    """Write a checkpoint; the path appears only when all of it is on the disk.

    Args:
        checkpoint: any.
        path: a file for `.apr` and OpenAI, a folder for Hugging Face.
        target: what to write.
        quantize: `f16` for every target but layout 1, `int8` for layout 1, `q8` and `q4` for 2.
        overwrite: replace a file.
        progress: told how many numbers were written.

    Raises:
        CheckpointError: if the target has no such quantisation or cannot be written.
    """
    path = path.absolute()
    check_target(path, overwrite=overwrite)
    if target in (Target.APR_V1, Target.APR_V2):
        version = 1 if target is Target.APR_V1 else 2
        with whole_file(path) as file:
            write_apr(file, checkpoint, version=version, quantize=quantize, progress=progress)
        return
    if quantize not in (None, "f16"):
        raise CheckpointError(f"{path}: {target} weights cannot be {quantize}, only f16")
    dtype = torch.float16 if quantize else None
    if target is Target.OPENAI:
        _write_openai(path, checkpoint, dtype, progress)
    else:
        _write_hf(path, checkpoint, dtype, progress)


def _write_hf(
    path: Path, checkpoint: Checkpoint, dtype: torch.dtype | None, progress: Progress
) -> None:
    with whole_folder(path) as folder:
        save_hf_folder(
            folder,
            checkpoint.state,
            checkpoint.config,
            tokenizer=checkpoint.tokenizer,
            generation=checkpoint.generation,
            dtype=dtype,
            progress=progress,
        )


def _write_openai(
    path: Path, checkpoint: Checkpoint, dtype: torch.dtype | None, progress: Progress
) -> None:
    """Write OpenAI's dictionary, and under a key of its own what that has no place for."""
    dims = dims_from_config(path, checkpoint.config)
    weights: dict[str, torch.Tensor] = {}
    for name, part in parts_of(checkpoint.state, checkpoint.config, Naming.OPENAI):
        weights[name] = part.to(dtype or part.dtype, copy=True).contiguous()
        progress(part.numel())
    own: dict[str, Any] = {
        "tokenizer": json.loads(checkpoint.tokenizer.to_json()),
        "generation_config": generation_to_json(checkpoint.generation, checkpoint.tokenizer),
        "window_rounding_frames": checkpoint.config.window_rounding_frames,
    }
    content = {"dims": dims, "model_state_dict": weights, OWN_KEY: json.dumps(own)}
    with whole_file(path) as file:
        torch.save(content, file)
