"""The benchmark of refusals takes the only place, and is refused. How fast, no test says."""

from __future__ import annotations

import subprocess
import sys

from tests.process.running import DEADLINE_S, environment


def test_refusals_of_every_size_are_a_row() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.refusals", "--count", "20"],
        env=environment(COLUMNS="80"),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    rows = [line.split("│")[1:-1] for line in ended.stdout.splitlines() if line.startswith("│")]
    assert [row[0].strip() for row in rows] == ["100", "64000", "960000"]
