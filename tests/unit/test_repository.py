"""The files around the code: what they name exists, what they pin is what is tested."""

from __future__ import annotations

import importlib.metadata
import itertools
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import PREFIX, Settings, variable


def _pins(repository: Path) -> dict[str, str]:
    lines = (repository / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {_normal(name): version for name, version in pins}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _project(repository: Path) -> dict[str, Any]:
    loaded = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))
    project: dict[str, Any] = loaded["project"]
    return project


def test_every_dependency_is_pinned_to_what_is_tested_here(repository: Path) -> None:
    pins = _pins(repository)
    project = _project(repository)
    extras = project["optional-dependencies"]
    names = {
        _normal(re.split(r"[<>=\[;]", requirement)[0])
        for requirement in [*project["dependencies"], *itertools.chain(*extras.values())]
    }
    for name in names - {project["name"]}:
        installed = importlib.metadata.version(name).split("+")[0]
        assert pins[name] == installed, name


def test_torch_is_pinned_without_a_build_so_that_any_index_will_do(repository: Path) -> None:
    assert _pins(repository)["torch"] == "2.13.0"


def test_the_readme_and_the_makefile_name_the_same_targets(repository: Path) -> None:
    makefile = (repository / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    assert {"setup", "serve", "test", "test-browser", "check", "bench", "help"} <= targets
    readme = (repository / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\bmake ([a-z-]+)", "\n".join(_code(readme))))
    assert named, "the README shows no make command"
    assert named <= targets


def test_compose_runs_the_image_that_the_dockerfile_describes(repository: Path) -> None:
    text = (repository / "docker-compose.yml").read_text(encoding="utf-8")
    compose = yaml.safe_load(text)
    built = {name: of for name, of in compose["services"].items() if "build" in of}
    assert set(built) == {"earshot", "gpu"}
    known = {variable(field) for field in Settings.model_fields}
    for service in built.values():
        assert set(service["environment"]) <= known
        assert service["ports"] == ["127.0.0.1:8000:8000"]
        grace = float(service["stop_grace_period"].removesuffix("s"))
        assert grace > Settings.model_fields["drain_timeout_s"].default
    gpu = compose["services"]["gpu"]
    assert gpu["profiles"] == ["gpu"]
    assert gpu["environment"]["EARSHOT_DEVICE"] == "cuda"


def test_the_image_needs_no_root_and_takes_any_package_index(repository: Path) -> None:
    dockerfile = (repository / "Dockerfile").read_text(encoding="utf-8")
    instructions = [line.split(maxsplit=1) for line in dockerfile.splitlines() if line.strip()]
    values = [(words[0], words[-1]) for words in instructions]
    assert [value for key, value in values if key == "USER"] == ["10001"]
    assert {value for key, value in values if key == "ARG"} == {
        "PIP_INDEX_URL",
        "PIP_EXTRA_INDEX_URL",
    }
    assert sum(key == "FROM" for key, _ in values) == 2
    assert "HEALTHCHECK" in dict(values)
    known = {variable(field) for field in Settings.model_fields}
    assert set(re.findall(rf"{PREFIX}\w+", dockerfile)) <= known


def test_what_the_image_copies_is_let_through_by_dockerignore(repository: Path) -> None:
    ignore = (repository / ".dockerignore").read_text(encoding="utf-8").splitlines()
    allowed = {line[1:] for line in ignore if line.startswith("!")}
    copied = re.findall(
        r"^COPY (?!--from)(.*)$", (repository / "Dockerfile").read_text(), re.MULTILINE
    )
    sources = {name.removeprefix("./") for line in copied for name in line.split()[:-1]}
    assert sources == allowed
    assert all((repository / name).exists() for name in sources)


@pytest.mark.parametrize(
    "page", ["README.md", "deploy/README.md", "docs/architecture.md", "docs/api.md"]
)
def test_links_between_pages_lead_somewhere(repository: Path, page: str) -> None:
    file = repository / page
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", file.read_text(encoding="utf-8"))
    assert targets
    missing = [target for target in targets if not (file.parent / target).exists()]
    assert not missing


def _code(markdown: str) -> list[str]:
    return re.findall(r"```.*?```", markdown, flags=re.DOTALL)
