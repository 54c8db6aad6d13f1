"""A flow drawn with box characters, or with ASCII. Knows nothing about models.

Layers that differ in nothing but their number are drawn once. Widths are those that a terminal
shows, so that every border is in one column.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from wcwidth import wcswidth

from service.inspection.flow import Box, encodings

_FITS_COLUMNS = 84
"""A label and its figures stand on one line up to this width."""
_LEAST_COLUMNS = 50
"""A narrower terminal breaks the lines itself."""
_ANY_WIDTH = 1 << 20
_BORDERS = 4
_INDENT = 2
_UNITS = ("", "k", "M", "G", "T", "P")


@dataclass(frozen=True, slots=True)
class Characters:
    """What a drawing is made of."""

    horizontal: str
    vertical: str
    corners: tuple[str, str, str, str]
    arrow: str


UNICODE = Characters("─", "│", ("┌", "┐", "└", "┘"), "▼")
ASCII = Characters("-", "|", ("+", "+", "+", "+"), "v")


def draw(
    flow: Iterable[Box], characters: Characters = UNICODE, width: int | None = None
) -> list[str]:
    """Return the lines of a drawing: the boxes one under the other, joined by arrows.

    Args:
        flow: of `build_flow`.
        characters: what it is made of.
        width: columns of the terminal, which no line is to exceed; None for as many as it takes.
    """
    room = _ANY_WIDTH if width is None else max(width, _LEAST_COLUMNS) - _BORDERS
    blocks = [_block(folded(box), characters, room) for box in flow]
    inner = max((columns(line) for block in blocks for line in block), default=0)
    lines: list[str] = []
    for i, block in enumerate(blocks):
        if i:
            middle = " " * (inner // 2 + 2)
            lines += [middle + characters.vertical, middle + characters.arrow]
        lines += _framed(block, inner, characters)
    return lines


def columns(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    width = wcswidth(text)
    return width if width >= 0 else len(text)


def folded(box: Box) -> Box:
    """Return a box whose equal layers are one."""
    children = tuple(folded(child) for child in box.children)
    if box.component != "layers" or len(children) < 2 or len({_likeness(c) for c in children}) > 1:
        return replace(box, children=children)
    one = replace(children[0], label="each layer")
    return replace(box, children=(one, Rest.of(children)))


class Rest(Box):
    """The other layers, which count and are not drawn."""

    @classmethod
    def of(cls, layers: tuple[Box, ...]) -> Rest:
        """Return what stands for all but the first of these."""
        return cls("", "rest", children=layers[1:])


def _likeness(box: Box) -> tuple[object, ...]:
    """Return what two layers must have in common to be drawn as one."""
    own = tuple((weight.shape, weight.encoding) for weight in box.weights)
    missing = len(box.missing)
    flops = (box.flops_per_window, box.flops_per_token)
    label = "" if box.layer else box.label
    return (label, own, missing, flops, *(_likeness(child) for child in box.children))


def _block(box: Box, characters: Characters, room: int) -> list[str]:
    """Return the lines inside a box's border."""
    lines = [part for line in _lines(box, room) for part in _wrapped(line, room)]
    for child in box.children:
        if isinstance(child, Rest):
            continue
        inside = _block(child, characters, room - _INDENT - (_BORDERS if child.framed else 0))
        if child.framed:
            inside = _framed(inside, max(map(columns, inside)), characters)
        lines += [" " * _INDENT + line for line in inside]
    return lines


def _wrapped(line: str, room: int) -> list[str]:
    """Return a line in pieces that fit; what follows the first is set in."""
    if columns(line) <= room:
        return [line]
    indent = line[: len(line) - len(line.lstrip())]
    return textwrap.wrap(
        line, room, subsequent_indent=f"{indent}    ", break_on_hyphens=False, drop_whitespace=True
    )


def _framed(block: list[str], inner: int, characters: Characters) -> list[str]:
    top_left, top_right, bottom_left, bottom_right = characters.corners
    rule = characters.horizontal * (inner + 2)
    side = characters.vertical
    body = [f"{side} {line}{' ' * (inner - columns(line))} {side}" for line in block]
    return [f"{top_left}{rule}{top_right}", *body, f"{bottom_left}{rule}{bottom_right}"]


def _lines(box: Box, room: int) -> Iterator[str]:
    """Yield a box's label and figures, on one line if they fit."""
    label, *rest = box.label.split("\n")
    fits = min(room, _FITS_COLUMNS)
    numbers = ", ".join(figures(box))
    if numbers and not rest and columns(label) + 2 + columns(numbers) <= fits:
        yield f"{label}  {numbers}"
    else:
        yield label
        yield from (f"    {line}" for line in (*rest, numbers) if line)
    if box.missing:
        yield f"    not in this file: {', '.join(box.missing)}"


def figures(box: Box) -> Iterator[str]:
    """Yield the numbers of a box and all below it, each with its unit."""
    weights = box.all_weights
    if weights:
        count = sum(weight.parameters for weight in weights)
        yield f"{scaled(count).rstrip()} parameters {'+'.join(encodings(weights))}"
        yield f"{scaled(sum(weight.nbytes for weight in weights))}B"
    if flops := box.total("flops_per_window"):
        yield f"{scaled(flops)}FLOP/window"
    if flops := box.total("flops_per_token"):
        yield f"{scaled(flops)}FLOP/token"


def scaled(n: float) -> str:
    """Return a number with three digits, and the prefix of its unit: `1.23 M`."""
    power = 0
    while n >= 999.5 and power < len(_UNITS) - 1:
        n /= 1000
        power += 1
    digits = f"{n:.3g}" if power else f"{n:.0f}"
    return f"{digits} {_UNITS[power]}"
