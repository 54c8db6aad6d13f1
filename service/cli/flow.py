"""`earshot flow`: the data flow of a model file, drawn or as JSON. Knows nothing about formats."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from typing import Any

from service.build import model_source
from service.checkpoints.opened import open_model
from service.cli.display import complain, visible
from service.errors import ServiceError
from service.inspection.flow import UnknownPart, build_flow, choose, weight_stats
from service.inspection.flow_report import heading, notes, report
from service.inspection.flow_text import ASCII, UNICODE, columns, draw
from service.settings import Settings

UNUSABLE = 2
_FIGURES = ("min", "max", "mean", "std", "nan_count")


def flow_model(
    settings: Settings,
    *,
    component: str,
    layer: str | None,
    as_json: bool,
    with_stats: bool,
    ascii_only: bool,
) -> int:
    """Draw a model's data flow on stdout; return the exit code."""
    try:
        model = open_model(model_source(settings), tokenizer=settings.tokenizer)
        flow = choose(build_flow(model), component, layer)
        stats = weight_stats(model, flow) if with_stats else {}
    except (ServiceError, UnknownPart, ValueError) as error:
        complain(str(error))
        return UNUSABLE
    for sentence in model.contradictions:
        complain(f"warning: {model.source}: {sentence}")
    if as_json:
        text = json.dumps(report(model, flow, file=model.source, component=component, stats=stats))
    else:
        plain = ascii_only or not _can_draw()
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        drawing = draw(flow, ASCII if plain else UNICODE, width)
        lines = [heading(model), "", *drawing, "", *notes(model)]
        lines += _table(stats) if with_stats else []
        text = "\n".join(map(visible, lines))
        text = text.encode("ascii", "backslashreplace").decode() if plain else text
    print(text)  # noqa: T201 - the result
    return 0


def _can_draw() -> bool:
    """Whether stdout's encoding has the box characters."""
    try:
        "".join((*UNICODE.corners, UNICODE.arrow)).encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def _table(stats: Mapping[str, Mapping[str, Any]]) -> list[str]:
    rows: list[tuple[str, ...]] = [("weight", "min", "max", "mean", "std", "NaN")]
    for name, figures in stats.items():
        rows.append((name, *(_number(figures[key]) for key in _FIGURES)))
    widths = [max(columns(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [""] + [
        "  ".join(
            cell + " " * (width - columns(cell)) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else str(value) if isinstance(value, int) else f"{value:.6g}"
