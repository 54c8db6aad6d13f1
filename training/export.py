"""Writes a trained model as the folder that is shipped, in the format of Hugging Face.

python -m training.export --folder RUN --cache CACHE --to service/builtin
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer

from service.checkpoints.checkpoint import GenerationConfig
from service.checkpoints.hf import save_hf_folder
from service.text.tokenizer import WhisperTokenizer, load_tokenizer
from training.heads import alignment_heads
from training.material import load_material
from training.network import Trainee, builtin_config
from training.vocabulary import (
    NO_SPEECH,
    NO_TIMESTAMPS,
    SOLM,
    SOT,
    SOT_PREV,
    TRANSCRIBE,
    TRANSLATE,
    build_tokenizer,
)


def builtin_generation(alignment_heads: tuple[tuple[int, int], ...] = ()) -> GenerationConfig:
    """Return how the built-in model is decoded.

    End of text may come first (audio without digits), and so may a late timestamp (digits after a
    long silence).
    """
    return GenerationConfig(
        is_multilingual=False,
        suppress_tokens=(
            SOT,
            TRANSLATE,
            TRANSCRIBE,
            SOLM,
            SOT_PREV,
            NO_SPEECH,
            NO_TIMESTAMPS,
        ),
        begin_suppress_tokens=(),
        alignment_heads=alignment_heads,
        max_initial_timestamp_index=None,
    )


def builtin_tokenizer() -> WhisperTokenizer:
    """Return the tokenizer as the service knows it."""
    with tempfile.TemporaryDirectory() as folder:
        build_tokenizer().save(str(Path(folder) / "tokenizer.json"))
        return load_tokenizer(Path(folder), is_multilingual=False)


def main(
    folder: Annotated[Path, typer.Option(help="Folder with the run's checkpoint.")],
    cache: Annotated[Path, typer.Option(help="Folder with prepared audio.")],
    to: Annotated[Path, typer.Option(help="Folder to write.")],
) -> None:
    """Write the averaged weights as float16, with config and tokenizer; keep a README there."""
    model = Trainee(builtin_config()).eval()
    state = torch.load(folder / "checkpoint.pt", weights_only=True)
    model.load_state_dict(state["average"])
    heads = alignment_heads(model.whisper, load_material(cache, "train"))
    save_hf_folder(
        to,
        model.whisper.state_dict(),
        model.whisper.config,
        tokenizer=builtin_tokenizer(),
        generation=builtin_generation(heads),
        dtype=torch.float16,
    )


if __name__ == "__main__":
    typer.run(main)
