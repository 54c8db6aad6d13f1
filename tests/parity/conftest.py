from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.parity.compare import DecodingTally, Tally

_TALLY = Tally()
_DECODING = DecodingTally()


@pytest.fixture
def tally() -> Tally:
    return _TALLY


@pytest.fixture
def decoding_tally() -> DecodingTally:
    return _DECODING


@pytest.fixture(autouse=True)
def _inference_mode() -> Iterator[None]:
    with torch.inference_mode():
        yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _TALLY.checkpoints:
        terminalreporter.write_line(
            f"parity: {_TALLY.checkpoints} checkpoints, {_TALLY.tokens} greedy tokens compared, "
            f"{_TALLY.ties} ties"
        )
    if _DECODING.checkpoints:
        terminalreporter.write_line(
            f"parity: {_DECODING.checkpoints} checkpoints, {_DECODING.cases} decodings in live "
            f"batches, {_DECODING.tokens} tokens compared, {_DECODING.ties} ties"
        )
