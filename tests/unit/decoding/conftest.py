"""Fixtures of the decoding's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.unit.model.cpus import INSTRUCTIONS, compiled_for, leave_out_what_is_compiled


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors gain nothing from threads, and wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest, one_thread: None) -> int:
    """Let torch work with one thread and with two."""
    torch.set_num_threads(request.param)
    n_threads: int = request.param
    return n_threads


@pytest.fixture(params=[*INSTRUCTIONS, "torch"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what is compiled serve, and torch's own operations."""
    if request.param == "torch":
        leave_out_what_is_compiled(monkeypatch)
    else:
        compiled_for(request.param, monkeypatch)
