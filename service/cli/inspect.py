"""`earshot inspect`: what is in a model, without its weights. Knows nothing about formats."""

from __future__ import annotations

import json

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from service.build import model_source
from service.checkpoints.load import load_checkpoint
from service.cli.display import complain
from service.errors import ServiceError
from service.inspection import ModelDescription, describe
from service.settings import Settings

FAILED = 1
PIPE_WIDTH = 120


def inspect_model(settings: Settings, *, as_json: bool) -> int:
    """Describe a model on stdout; return the exit code."""
    try:
        checkpoint = load_checkpoint(model_source(settings), tokenizer=settings.tokenizer)
    except ServiceError as error:
        complain(str(error))
        return FAILED
    description = describe(checkpoint)
    if as_json:
        print(json.dumps(description.to_json(), ensure_ascii=False))  # noqa: T201 - the result
    else:
        console = Console(highlight=False)
        if not console.is_terminal:
            console.width = PIPE_WIDTH
        show(description, console)
    return 0


def show(model: ModelDescription, console: Console) -> None:
    """Print a description for a person."""
    console.print(f"{model.name}: {model.format}, {model.nbytes / 1e6:,.1f} MB", markup=False)
    console.print(model.source, style="dim", markup=False)
    tokenizer = model.tokenizer
    kind = f"{tokenizer.n_languages} languages" if tokenizer.is_multilingual else "English only"
    console.print(
        f"{tokenizer.n_vocab:,} tokens, {tokenizer.n_text:,} of them text; {kind}", markup=False
    )
    console.print(_pairs("dimension", {name: str(n) for name, n in model.dims.items()}))
    console.print(_pairs("parameters", {part: f"{n:,}" for part, n in model.parameters.items()}))
    special = {name: str(n) for name, n in tokenizer.special.items() if n is not None}
    console.print(_pairs("special token", special))
    tensors = Table("tensor", "shape", "dtype")
    tensors.add_column("bytes", justify="right")
    for tensor in model.tensors:
        shape = " × ".join(str(extent) for extent in tensor.shape)
        tensors.add_row(escape(tensor.name), shape, tensor.dtype, f"{tensor.nbytes:,}")
    console.print(tensors)


def _pairs(heading: str, values: dict[str, str]) -> Table:
    table = Table(heading)
    table.add_column("", justify="right")
    for name, value in values.items():
        table.add_row(name, value)
    return table
