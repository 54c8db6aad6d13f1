"""`earshot inspect`, `tensors` and `validate`: what is in a file. Knows nothing about formats."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from service.build import model_source
from service.checkpoints.opened import open_model
from service.cli.display import complain, visible
from service.errors import ServiceError
from service.inspection import ModelDescription, describe
from service.inspection.listing import FIGURES, Watch, list_tensors
from service.inspection.validate import Report, validate
from service.settings import Settings

UNUSABLE = 2
PIPE_WIDTH = 120


def inspect_model(settings: Settings, *, as_json: bool) -> int:
    """Describe a model on stdout; return the exit code."""
    try:
        description = describe(open_model(model_source(settings), tokenizer=settings.tokenizer))
    except ServiceError as error:
        complain(str(error))
        return UNUSABLE
    if as_json:
        _print_json(description.to_json())
    else:
        show(description, _console())
    return 0


def show_tensors(
    settings: Settings, *, part: str | None, limit: int | None, with_stats: bool, as_json: bool
) -> int:
    """List a file's tensors on stdout; return the exit code."""
    try:
        model = open_model(model_source(settings))
        listed = list_tensors(
            model, part=part, limit=limit, with_stats=with_stats, watch=_bar("reading")
        )
    except ServiceError as error:
        complain(str(error))
        return UNUSABLE
    if as_json:
        _print_json(listed)
        return 0
    _console().print(_tensor_table(listed["tensors"], with_stats=with_stats))
    size = listed["total_size_bytes"]
    print(f"{listed['tensor_count']} tensors, {size:,} bytes")  # noqa: T201 - the result
    return 0


def validate_model(settings: Settings, *, as_json: bool) -> int:
    """Say on stdout what is wrong with a file; return the exit code."""
    try:
        model = open_model(model_source(settings), tokenizer=settings.tokenizer)
        report = validate(model, watch=_bar("validating"))
    except ServiceError as error:
        complain(str(error))
        return UNUSABLE
    if as_json:
        _print_json(report.to_json())
    else:
        print("\n".join(map(visible, _verdict(report))))  # noqa: T201 - the result
    return 0 if report.valid else UNUSABLE


def _verdict(report: Report) -> list[str]:
    lines = []
    for finding in report.findings:
        where = f"{finding.tensor}: " if finding.tensor else ""
        lines.append(f"{finding.severity}: {finding.check}: {where}{finding.message}")
    errors = sum(finding.severity == "error" for finding in report.findings)
    word = "VALID" if report.valid else "INVALID"
    return [*lines, f"{word}: {report.tensors_checked} tensors checked, {errors} violations"]


def _bar(what: str) -> Watch:
    """Return a progress bar on stderr, where there is a terminal."""
    console = Console(stderr=True)

    def watch(names: Sequence[str]) -> Iterable[str]:
        return track(names, what, console=console, transient=True, disable=not console.is_terminal)

    return watch


def _console() -> Console:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    return console


def _print_json(content: object) -> None:
    print(json.dumps(content))  # noqa: T201 - the result


def show(model: ModelDescription, console: Console) -> None:
    """Print a description for a person."""
    heading = f"{model.name}: {model.format}, {model.nbytes / 1e6:,.1f} MB"
    console.print(visible(heading), markup=False)
    console.print(visible(model.source), style="dim", markup=False)
    for remark in model.remarks:
        console.print(visible(f"remark: {remark}"), markup=False)
    if model.dims:
        console.print(_pairs("dimension", {name: str(n) for name, n in model.dims.items()}))
        parameters = {part: f"{n:,}" for part, n in model.parameters.items()}
        console.print(_pairs("parameters", parameters))
    _show_vocabulary(model, console)
    if model.metadata:
        console.print(_pairs("metadata", {k: str(v) for k, v in model.metadata.items()}))
    if bank := model.filterbank:
        console.print(
            f"filterbank: [{bank.n_mels}, {bank.n_freqs}], at most {bank.largest_difference:.2g} "
            "from Slaney's formula",
            markup=False,
        )
    for checksum in model.checksums:
        verdict = "right" if checksum.holds else f"wrong, its bytes give {checksum.computed}"
        console.print(
            f"checksum: {checksum.file}, {checksum.covers}: {checksum.stored}, {verdict}",
            markup=False,
        )
    tensors = [
        {"name": t.name, "shape": t.shape, "dtype": t.dtype, "size_bytes": t.nbytes}
        for t in model.tensors
    ]
    console.print(_tensor_table(tensors, with_stats=False))


def _show_vocabulary(model: ModelDescription, console: Console) -> None:
    tokenizer = model.tokenizer
    if tokenizer is None:
        return
    kind = f"{tokenizer.n_languages} languages" if tokenizer.is_multilingual else "English only"
    console.print(
        f"{tokenizer.n_vocab:,} tokens, {tokenizer.n_text:,} of them text; {kind}", markup=False
    )
    special = {name: str(n) for name, n in tokenizer.special.items() if n is not None}
    console.print(_pairs("special token", special))


def _tensor_table(tensors: Sequence[dict[str, Any]], *, with_stats: bool) -> Table:
    table = Table("tensor", "shape", "dtype")
    table.add_column("bytes", justify="right")
    figures = FIGURES if with_stats else ()
    for figure in figures:
        table.add_column(figure, justify="right")
    for tensor in tensors:
        shape = " × ".join(str(extent) for extent in tensor["shape"])
        numbers = [_number(tensor[figure]) for figure in figures]
        size = f"{tensor['size_bytes']:,}"
        table.add_row(escape(visible(tensor["name"])), shape, tensor["dtype"], size, *numbers)
    return table


def _number(value: float | None) -> str:
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.4g}"


def _pairs(heading: str, values: dict[str, str]) -> Table:
    table = Table(heading)
    table.add_column("", justify="right")
    for name, value in values.items():
        table.add_row(escape(visible(name)), escape(visible(value)))
    return table
