"""Mutated recordings of every format: read or refused, never a failure of ours, never a hang."""

from __future__ import annotations

import asyncio

import pytest

from tests.fuzz.differential import compare_all
from tests.fuzz.feeding import Findings, fuzz
from tests.fuzz.mutations import FORMATS, mutated, originals

COUNT = 200
"""`make fuzz` takes a hundred thousand."""


@pytest.mark.timeout(600)  # a process for each file
def test_mutated_files_are_heard_or_refused() -> None:
    findings = Findings()
    asyncio.run(fuzz(1, range(COUNT), findings))
    assert findings.bad == []
    assert findings.outcomes.total() == COUNT
    assert set(findings.outcomes) <= {"200", "400 invalid_audio", "400 audio_too_long"}
    assert min(findings.outcomes["200"], findings.outcomes["400 invalid_audio"]) > COUNT / 10


def test_forked_children_find_what_executed_ones_find() -> None:
    found = [Findings(), Findings()]
    for forked, findings in zip((True, False), found, strict=True):
        asyncio.run(fuzz(2, range(40), findings, forked=forked))
    assert found[0] == found[1]
    assert found[0].bad == []


def test_wave_reads_what_we_read_of_mutated_files() -> None:
    findings = Findings()
    compare_all(3, range(2_000), findings, lambda: None)
    assert findings.bad == []
    assert findings.outcomes["200, as wave reads it"] > 200


def test_a_number_makes_the_same_file_again() -> None:
    files = originals()
    assert len(files) == len(FORMATS) + 1
    made = [mutated(files, 7, number) for number in range(50)]
    assert made == [mutated(files, 7, number) for number in range(50)]
    assert sum(data != files[number % len(files)] for number, data in enumerate(made)) > 45
