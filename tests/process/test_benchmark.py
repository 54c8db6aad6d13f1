"""The load generator runs, and counts what it asked for. How fast anything is, no test says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.running import DEADLINE_S, Running, environment


def _load(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.load", *arguments],
        env=environment(COLUMNS="120"),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


@pytest.fixture(scope="module")
def url(random_model: Path) -> Iterator[str]:
    with Running("--model", str(random_model)) as service:
        yield service.wait_ready().url


def test_every_number_of_clients_is_a_row(url: str, short: Path) -> None:
    options = ["--clients", "1", "--clients", "2", "--requests", "2"]
    ended = _load("--url", url, *options, str(short))
    assert ended.returncode == 0, ended.stderr
    rows = [line.split("│")[1:-1] for line in ended.stdout.splitlines() if line.startswith("│")]
    cells = [[cell.strip() for cell in row] for row in rows]
    assert [row[:3] for row in cells] == [["1", "2", "0"], ["2", "2", "0"]]
    assert all(float(rate) > 0 for row in cells for rate in row[6:9])


def test_refusals_are_counted_and_told(url: str, tmp_path: Path) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"no audio")
    ended = _load("--url", url, "--clients", "1", "--requests", "2", str(bad))
    assert ended.returncode == 1
    assert "failed:" in ended.stdout
