"""`earshot convert`: a model in another format. Knows nothing about the formats themselves."""

from __future__ import annotations

import math
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from service.build import model_source
from service.checkpoints.convert import Target, convert, target_of
from service.checkpoints.load import load_checkpoint
from service.cli.display import complain
from service.errors import ServiceError
from service.settings import Settings

UNUSABLE = 2


def convert_model(
    settings: Settings,
    path: Path,
    *,
    quantize: str | None,
    target_format: str | None,
    overwrite: bool,
) -> int:
    """Write the model under the path, with a progress bar on stderr; return the exit code."""
    target = Target(target_format) if target_format else target_of(path, quantize)
    try:
        checkpoint = load_checkpoint(model_source(settings), tokenizer=settings.tokenizer)
        total = sum(math.prod(shape) for shape in checkpoint.state.shapes.values())
        with _progress() as bar:
            task = bar.add_task(f"{path.name} ({target})", total=total)
            convert(
                checkpoint,
                path,
                target,
                quantize=quantize,
                overwrite=overwrite,
                progress=lambda n: bar.advance(task, n),
            )
            bar.update(task, completed=total)
    except ServiceError as error:
        complain(str(error))
        return UNUSABLE
    return 0


def _progress() -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
