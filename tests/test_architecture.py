"""The rules of the architecture that a machine can check: imports, sizes, what may start threads.

The layers and the forbidden imports are contracts in pyproject.toml; import-linter counts imports
under TYPE_CHECKING too, on purpose: a name in an annotation is a dependency as well.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAX_LINES = 320
THREADING = {"threading", "queue", "multiprocessing", "concurrent"}
MAY_THREAD = {
    "service/audio/sandbox.py",
    "service/audio/speech_process.py",
    "service/engine/hosts.py",
    "service/engine/worker.py",
    "service/engine_process.py",
    "service/transcription/worker.py",
}
MAY_IMPORT_TORCH = (
    "service/model/",
    "service/checkpoints/",
    "service/inspection/",
    "service/decoding/",
    "service/audio/mel.py",
    "service/engine/aligner.py",
    "service/engine/detector.py",
    "service/engine/drawn.py",
    "service/engine/eager_step.py",
    "service/engine/encoder.py",
    "service/engine/fixed_step.py",
    "service/engine/graphs.py",
    "service/engine/lost.py",
    "service/engine/runner.py",
    "service/engine/shape_probe.py",
    "service/engine/streams.py",
    "service/loading.py",
)
MAY_IMPORT_SETTINGS = (
    "service/cli",
    "service/build.py",
    "service/engine_process.py",
    "service/in_process.py",
    "service/loading.py",
    "service/serving.py",
)


def _files(*folders: str) -> list[Path]:
    return sorted(
        path
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        if "__pycache__" not in path.parts
    )


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{_name(path)}: relative import"
            assert node.module
            yield node.module


def _imports_any(path: Path, roots: set[str]) -> bool:
    return any(module.split(".")[0] in roots for module in _imports(path))


def test_import_contracts_hold() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run(
        [lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("path", _files("service"), ids=_name)
def test_only_the_engine_the_worker_and_who_has_processes_know_threads(path: Path) -> None:
    assert _name(path) in MAY_THREAD or not _imports_any(path, THREADING)


@pytest.mark.parametrize("path", _files("service"), ids=_name)
def test_torch_is_imported_where_the_design_allows_it(path: Path) -> None:
    assert _name(path).startswith(MAY_IMPORT_TORCH) or not _imports_any(path, {"torch"})


@pytest.mark.parametrize("path", _files("service"), ids=_name)
def test_settings_are_read_at_the_top_only(path: Path) -> None:
    if not _name(path).startswith(MAY_IMPORT_SETTINGS):
        assert "service.settings" not in _imports(path)


@pytest.mark.parametrize("path", _files("service"), ids=_name)
def test_the_service_imports_nothing_of_its_recipe(path: Path) -> None:
    assert not _imports_any(path, {"training", "benchmarks", "samples", "tests", "transformers"})


@pytest.mark.parametrize(
    "path", _files("service", "tests", "training", "benchmarks", "samples"), ids=_name
)
def test_a_file_is_one_idea(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= MAX_LINES, f"{lines} lines"


@pytest.mark.parametrize("path", _files("service"), ids=_name)
def test_a_module_says_what_it_is_for(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert not source or ast.get_docstring(ast.parse(source)), "no module docstring"


def test_no_module_is_a_drawer_for_odds_and_ends() -> None:
    drawers = {"utils", "util", "common", "helpers", "helper", "misc"}
    assert not [path for path in _files("service") if path.stem in drawers]
