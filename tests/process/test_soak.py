"""The soak test runs, for seconds: nothing surprises it, and nothing is left of what it sent."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.traffic import KINDS
from tests.process.running import environment


@pytest.mark.timeout(300)  # it hears every recording once, and rests until connections have ended
def test_every_kind_of_request_leaves_the_service_as_it_was() -> None:
    options = ["--minutes", "0.05", "--clients", "6", "--max-lag-ms", "60000"]
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.soak", *options],
        env=environment(COLUMNS="120"),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.endswith("\nheld\n")
    assert sum(f"│ {kind} " in ended.stdout for kind in KINDS) > len(KINDS) / 2
