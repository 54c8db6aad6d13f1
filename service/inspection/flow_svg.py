"""A flow drawn as SVG, for people. Knows nothing about models.

Boxes stand one under the other, joined by arrows; a line at the left leads from `encoder_output`
to every cross-attention. Text is monospaced, so that widths follow from columns.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from xml.sax.saxutils import escape

from service.inspection.flow import Box
from service.inspection.flow_text import Rest, columns, figures, folded

_COLUMN = 7.3
"""Width of a character at `_FONT_PX`."""
_FONT_PX = 12
_ROW = 22
_INSET = 14
_GAP = 6
_BETWEEN = 34
_MARGIN = 46
_TOP = 52
_FILLS = {  # component -> background, border
    "encoder": ("#eef4fd", "#7fa6dc"),
    "decoder": ("#fdf3ea", "#dba878"),
    "layers": ("#ffffff", "#b9c0ca"),
    "layer": ("#ffffff", "#d8dce2"),
    "self_attn": ("#e3efe4", "#86b28b"),
    "cross_attn": ("#f4e6f3", "#bd8cba"),
    "ffn": ("#fbf6dc", "#cdbb66"),
    "encoder_output": ("#f4e6f3", "#bd8cba"),
}
_PLAIN = ("#f5f6f8", "#b9c0ca")
_GREY = "#5b6470"
_RED = "#b3261e"
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_STYLE = (
    f"text{{font:{_FONT_PX}px ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;"
    "fill:#1d2733;white-space:pre}.title{font-weight:700;font-size:15px}.group{font-weight:700}"
    f".figures{{fill:{_GREY}}}.missing{{fill:{_RED}}}.line{{stroke:{_GREY};fill:none}}"
    ".kv{stroke:#bd8cba;stroke-width:2;fill:none}"
)
_ARROW_HEAD = (
    '<marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="9" markerHeight="9" '
    f'markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0L10 5L0 10z" fill="{_GREY}"/>'
    "</marker>"
)


def draw_svg(flow: Iterable[Box], title: str, notes: Sequence[str] = ()) -> str:
    """Return a whole SVG document.

    Args:
        flow: of `build_flow`.
        title: above the drawing.
        notes: lines below it.
    """
    boxes = [folded(box) for box in flow]
    widths = [_width(box) for box in boxes] + [_COLUMN * columns(text) for text in (title, *notes)]
    canvas = _Canvas(max(widths, default=0.0))
    y = float(_TOP)
    for i, box in enumerate(boxes):
        if i:
            canvas.arrow(y)
            y += _BETWEEN
        y = canvas.box(box, _MARGIN, y, canvas.width)
    canvas.lead_keys_and_values()
    for i, note in enumerate(notes):
        canvas.text(_MARGIN, y + 24 + i * _ROW, note, "figures")
    height = y + 24 + _ROW * len(notes)
    full = canvas.width + 2 * _MARGIN
    canvas.text(_MARGIN, 30, title, "title")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{full:.0f}" '
        f'height="{height:.0f}" viewBox="0 0 {full:.0f} {height:.0f}">'
        f"<title>{_xml(title)}</title><style>{_STYLE}</style><defs>{_ARROW_HEAD}</defs>"
        f'<rect width="100%" height="100%" fill="#ffffff"/>{"".join(canvas.parts)}</svg>\n'
    )


def _xml(text: str) -> str:
    return escape(_NO_XML.sub("\ufffd", text))


def _lines(box: Box) -> list[tuple[str, str, str]]:
    """Return the rows of text of a box: what stands left, what right, and the style."""
    label, *rest = box.label.split("\n")
    rows = [(label, ", ".join(figures(box)), "group" if box.children else "")]
    rows += [(f"  {line}", "", "figures") for line in rest]
    if box.missing:
        rows.append((f"  not in this file: {', '.join(box.missing)}", "", "missing"))
    return rows


def _drawn(box: Box) -> list[Box]:
    return [child for child in box.children if not isinstance(child, Rest)]


def _width(box: Box) -> float:
    own = max(columns(left) + columns(right) + 3 * bool(right) for left, right, _ in _lines(box))
    inside = max((_width(child) for child in _drawn(box)), default=0.0)
    return max(_COLUMN * own, inside) + 2 * _INSET


class _Canvas:
    """Collects the elements of a drawing that is `width` wide between its margins."""

    def __init__(self, width: float) -> None:
        self.width = width
        self.parts: list[str] = []
        self._sources: list[tuple[float, float]] = []
        self._readers: list[tuple[float, float]] = []

    def text(self, x: float, y: float, text: str, style: str = "", *, right: bool = False) -> None:
        """Write a line."""
        anchor = ' text-anchor="end"' if right else ""
        kind = f' class="{style}"' if style else ""
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}"{anchor}{kind}>{_xml(text)}</text>')

    def arrow(self, y: float) -> None:
        """Lead from one box to the next."""
        x = _MARGIN + self.width / 2
        self.parts.append(
            f'<path class="line" marker-end="url(#head)" d="M{x:.1f} {y + 2:.1f}v{_BETWEEN - 5}"/>'
        )

    def box(self, box: Box, x: float, y: float, width: float) -> float:
        """Draw a box with all that is in it, and return where it ends."""
        at = len(self.parts)
        rows = _lines(box)
        bottom = y + _ROW * len(rows) + 4
        for i, (left, right, style) in enumerate(rows):
            baseline = y + _ROW * i + 16
            self.text(x + _INSET, baseline, left, style)
            if right:
                self.text(x + width - _INSET, baseline, right, "figures", right=True)
        if children := _drawn(box):
            for child in children:
                bottom = self.box(child, x + _INSET, bottom + _GAP, width - 2 * _INSET)
            bottom += _INSET
        fill, border = _FILLS.get(box.component, _PLAIN)
        self.parts.insert(
            at,
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{bottom - y:.1f}" rx="5" '
            f'fill="{fill}" stroke="{border}"/>',
        )
        if box.component == "encoder_output":
            self._sources.append((x, (y + bottom) / 2))
        elif box.component == "cross_attn":
            self._readers.append((x, (y + bottom) / 2))
        return bottom

    def lead_keys_and_values(self) -> None:
        """Draw the line from `encoder_output` to each cross-attention that is drawn."""
        for source_x, source_y in self._sources:
            for x, y in self._readers:
                self.parts.append(
                    f'<path class="kv" marker-end="url(#head)" d="M{source_x:.1f} {source_y:.1f}'
                    f'H{_MARGIN / 2:.1f}V{y:.1f}H{x - 1:.1f}"/>'
                )
