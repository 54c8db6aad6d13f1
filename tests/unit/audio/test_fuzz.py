"""Mutated recordings of every format: read or refused, never a failure of ours, never a hang."""

from __future__ import annotations

import asyncio

import pytest

from tests.fuzz.feeding import fuzz
from tests.fuzz.mutations import FORMATS, mutated, originals

COUNT = 200
"""`make fuzz` takes a hundred thousand."""


@pytest.mark.timeout(600)  # a process for each file
def test_mutated_files_are_heard_or_refused() -> None:
    findings = asyncio.run(fuzz(seed=1, first=0, count=COUNT))
    assert findings.bad == []
    assert findings.outcomes.total() == COUNT
    assert set(findings.outcomes) <= {"200", "400 invalid_audio", "400 audio_too_long"}
    assert min(findings.outcomes["200"], findings.outcomes["400 invalid_audio"]) > COUNT / 10


def test_a_number_makes_the_same_file_again() -> None:
    files = originals()
    assert len(files) == len(FORMATS) + 1
    made = [mutated(files, 7, number) for number in range(50)]
    assert made == [mutated(files, 7, number) for number in range(50)]
    assert sum(data != files[number % len(files)] for number, data in enumerate(made)) > 45
