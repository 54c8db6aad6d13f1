"""What SECURITY.md promises, as far as the code and the pins can be read for it."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.settings import Settings

Version = tuple[int, ...]


def _version(text: str) -> Version:
    return tuple(int(part) for part in text.split("."))


@pytest.fixture(scope="module")
def mended(repository: Path) -> dict[str, Version]:
    """The versions that the page names."""
    page = (repository / "SECURITY.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\w-]+) \| ([\d.]+) \| CVE-", page, flags=re.MULTILINE)
    assert len(rows) >= 5
    return {name: _version(version) for name, version in rows}


def test_no_version_with_a_known_flaw_is_admitted(
    mended: dict[str, Version], repository: Path
) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))
    floors = dict(re.split(r">=", line) for line in project["project"]["dependencies"])
    for name, version in mended.items():
        floor = _version(floors[name])
        assert floor + (0,) * (len(version) - len(floor)) >= version, name


def test_the_tested_versions_are_mended(mended: dict[str, Version], repository: Path) -> None:
    pins = (repository / "constraints.txt").read_text(encoding="utf-8")
    for name, version in mended.items():
        pin = re.search(rf"^{name}==([\d.]+)$", pins, flags=re.MULTILINE)
        assert pin is not None, name
        assert _version(pin[1]) >= version, name


def _nodes(repository: Path) -> Iterator[tuple[str, ast.AST]]:
    for path in sorted((repository / "service").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            yield str(path.relative_to(repository)), node


def test_nothing_is_decided_by_a_url_that_the_host_header_shapes(repository: Path) -> None:
    reads = [
        f"{path}:{node.lineno}"
        for path, node in _nodes(repository)
        if isinstance(node, ast.Attribute)
        and node.attr in {"url", "base_url"}
        and path != "service/protocol.py"  # where it is the target, as it came
    ]
    assert not reads


def test_pickles_are_only_read_as_weights_or_between_our_own_processes(repository: Path) -> None:
    own = "service/engine/process.py"
    calls = [
        (path, node)
        for path, node in _nodes(repository)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in {"load", "loads", "Unpickler"}
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id in {"torch", "pickle", "marshal", "dill", "joblib"}
        and not (path == own and node.func.value.id == "pickle")
    ]
    assert calls
    for path, call in calls:
        options = {keyword.arg: keyword.value for keyword in call.keywords}
        only = options.get("weights_only")
        assert isinstance(only, ast.Constant), f"{path}:{call.lineno}"
        assert only.value is True


def test_keys_and_other_origins_are_for_the_operator_to_set() -> None:
    for field in ("api_keys", "api_keys_file", "cors_origins"):
        assert Settings.model_fields[field].default is None


def test_links_of_the_page_lead_somewhere(repository: Path) -> None:
    page = (repository / "SECURITY.md").read_text(encoding="utf-8")
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", page)
    assert targets
    assert not [target for target in targets if not (repository / target).exists()]
