from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.parity.tally import TALLIES, Tally


@pytest.fixture
def tallies() -> dict[str, Tally]:
    return TALLIES


@pytest.fixture
def tally() -> Tally:
    return TALLIES["greedy decoding"]


@pytest.fixture
def decoding_tally() -> Tally:
    return TALLIES["decode()"]


@pytest.fixture
def longform_tally() -> Tally:
    return TALLIES["transcribe()"]


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """As the references were recorded; small products gain nothing from more.

    With two, one head of 64 values changes its last bits where a window has five hypotheses, and
    the probe refuses that model. What more threads do is tests/unit/engine/test_invariance.py's.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _inference_mode() -> Iterator[None]:
    with torch.inference_mode():
        yield
