"""The clients of docs/clients.md, as they stand there."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.running import DEADLINE_S, Running, environment

PAGE = Path(__file__).parents[2] / "docs" / "clients.md"
BLOCKS = re.findall(
    r"^```(sh|python)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
)
TEXT = "zero three five one"


@pytest.fixture(scope="module")
def service() -> Iterator[Running]:
    with Running() as running:
        yield running.wait_ready()


def test_the_page_has_every_kind_of_client() -> None:
    assert [language for language, _ in BLOCKS] == ["sh", "sh", "sh", "python", "python"]


@pytest.mark.parametrize(("language", "code"), BLOCKS)
def test_a_client_of_the_page_hears_what_was_said(
    service: Running, repository: Path, language: str, code: str
) -> None:
    command = ["sh", "-e", "-c"] if language == "sh" else [sys.executable, "-W", "error", "-c"]
    ran = subprocess.run(
        [*command, code.replace("http://127.0.0.1:8000", service.url)],
        cwd=repository,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert TEXT in ran.stdout
