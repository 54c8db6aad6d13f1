"""Fixtures of the model's tests."""

from __future__ import annotations

from ctypes import CDLL

import pytest

from tests.unit.model.cpus import INSTRUCTIONS, compiled_for


@pytest.fixture(params=INSTRUCTIONS)
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> CDLL:
    """What is compiled, for each of the instructions that it is compiled for."""
    return compiled_for(request.param, monkeypatch)
