"""Model files in, `Checkpoint` out. Knows nothing about requests, decoding or HTTP."""

from service.checkpoints.checkpoint import (
    Checkpoint,
    CheckpointFormat,
    GenerationConfig,
    build_model,
)
from service.checkpoints.hf import save_hf_folder
from service.checkpoints.load import load_checkpoint

__all__ = [
    "Checkpoint",
    "CheckpointFormat",
    "GenerationConfig",
    "build_model",
    "load_checkpoint",
    "save_hf_folder",
]
