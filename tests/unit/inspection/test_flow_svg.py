"""The flow as SVG: well-formed, whole, and every box within the one around it."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from service.checkpoints.opened import open_model
from service.inspection.flow import Box, build_flow, choose
from service.inspection.flow_svg import draw_svg

SVG = "{http://www.w3.org/2000/svg}"


def _drawn(flow: tuple[Box, ...], title: str = "a model") -> ET.Element:
    return ET.fromstring(draw_svg(flow, title, ["a note"]))


@pytest.fixture(scope="module")
def flow(repository: Path) -> tuple[Box, ...]:
    return build_flow(open_model(repository / "service" / "builtin"))


def _edges(rect: ET.Element) -> tuple[float, float, float, float]:
    x, y, width, height = (float(rect.get(name, "0")) for name in ("x", "y", "width", "height"))
    return x, y, x + width, y + height


def test_boxes_are_nested_or_apart_and_within_the_picture(flow: tuple[Box, ...]) -> None:
    root = _drawn(flow)
    width, height = float(root.get("width", "0")), float(root.get("height", "0"))
    boxes = [_edges(rect) for rect in root.iter(f"{SVG}rect") if rect.get("x")]
    assert len(boxes) > 25
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
    for i, one in enumerate(boxes):
        for other in boxes[i + 1 :]:
            apart = other[1] >= one[3] or one[1] >= other[3]
            inside = one[0] < other[0] and one[1] < other[1] and one[2] > other[2]
            assert apart or (inside and one[3] > other[3])


def test_keys_and_values_lead_to_every_cross_attention_that_is_drawn(
    flow: tuple[Box, ...],
) -> None:
    def leads(part: tuple[Box, ...]) -> int:
        return sum(path.get("class") == "kv" for path in _drawn(part).iter(f"{SVG}path"))

    assert leads(flow) == 1  # the layers are alike
    assert leads(choose(flow, "cross_attn", None)) == 0  # no encoder_output in it
    assert leads(choose(flow, "encoder", None)) == 0


def test_text_that_is_no_xml_cannot_break_the_picture(flow: tuple[Box, ...]) -> None:
    root = _drawn(flow, "<script>&\0\x1b\ud800]]>")
    titles = [element.text for element in root.iter(f"{SVG}title")]
    assert titles == ["<script>&\ufffd\ufffd\ufffd]]>"]
    assert not list(root.iter(f"{SVG}script"))


def test_what_is_missing_is_drawn(shared: Path) -> None:
    root = _drawn(build_flow(open_model(shared / "fixtures/apr/test.apr")))
    missing = [t.text for t in root.iter(f"{SVG}text") if t.get("class") == "missing"]
    assert "  not in this file: encoder.conv1.weight, encoder.conv1.bias" in missing
