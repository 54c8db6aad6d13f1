"""The tensors of a file, one by one, with figures where they are asked for. Knows no formats."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from service.errors import ServiceError
from service.inspection.opened import Opened
from service.inspection.stats import measure

FIGURES = ("mean", "std", "min", "max", "nan_count", "inf_count")
Watch = Callable[[Sequence[str]], Iterable[str]]
"""Passes names on and shows how far it got."""


def list_tensors(
    model: Opened,
    *,
    part: str | None = None,
    limit: int | None = None,
    with_stats: bool = False,
    watch: Watch = iter,
) -> dict[str, Any]:
    """Return what `earshot tensors --json` prints.

    Args:
        model: an open file.
        part: only tensors with this in their name; counts and sizes are of these.
        limit: at most so many are listed.
        with_stats: compute the figures, after dequantisation; they are None otherwise, and where
            the numbers are stored in a way that cannot be read.
        watch: for a progress bar.
    """
    infos = model.tensors.infos
    names = [name for name in infos if part is None or part in name]
    return {
        "file": model.source,
        "format": str(model.format),
        "tensor_count": len(names),
        "total_size_bytes": sum(infos[name].nbytes for name in names),
        "tensors": [
            {
                "name": name,
                "shape": list(infos[name].shape),
                "dtype": infos[name].encoding,
                "size_bytes": infos[name].nbytes,
                **_figures(model, name, with_stats=with_stats),
            }
            for name in watch(names[:limit])
        ],
    }


def _figures(model: Opened, name: str, *, with_stats: bool) -> dict[str, Any]:
    if not with_stats:
        return dict.fromkeys(FIGURES)
    try:
        stats = measure(model.tensors.read(name)).to_json()
    except ServiceError:
        return dict.fromkeys(FIGURES)
    return {figure: stats[figure] for figure in FIGURES}
