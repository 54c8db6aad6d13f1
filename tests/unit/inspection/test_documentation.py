"""The page about `.apr` files shows what the commands really print."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from service.checkpoints.opened import open_model
from service.inspection.flow import build_flow
from service.inspection.flow_text import draw


def test_the_drawing_in_the_documentation_is_the_built_in_models(repository: Path) -> None:
    page = (repository / "docs/apr.md").read_text(encoding="utf-8")
    shown = re.findall(r"<!-- earshot flow builtin -->\n```\n(.*?)\n```", page, flags=re.DOTALL)
    lines = draw(build_flow(open_model(repository / "service" / "builtin")))
    assert "\n".join(lines) in shown[0]


@pytest.mark.parametrize("page", ["docs/apr.md"])
def test_links_of_the_page_lead_somewhere(repository: Path, page: str) -> None:
    file = repository / page
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", file.read_text(encoding="utf-8"))
    assert targets
    assert not [target for target in targets if not (file.parent / target).exists()]
