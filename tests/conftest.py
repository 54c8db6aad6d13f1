"""What every test may use."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from service.text.tokenizer import WhisperTokenizer
from service.text.vocabulary import byte_alphabet
from tests.parity.tally import TALLIES, Tally

REPOSITORY = Path(__file__).parents[1]
PARITY = "tests/parity/"

# Small tensors gain nothing from threads. Where there are several all the same, here or in a
# service that a test starts, they sleep while they wait: spinning, they would keep the core that
# the other worker needs. Read when torch is loaded, which is later.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OMP_WAIT_POLICY"] = "passive"
assert "torch" not in sys.modules

# Hypothesis would fail an example that takes 200 ms, which any does on a busy machine.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


class ByFile(LoadScopeScheduling):  # type: ignore[misc]  # which has no types
    """Keeps a file's tests in one worker, for their fixtures; parity's, which add up, altogether.

    `--dist loadgroup` would do it by a mark, but changes names where pytest 9 does not look.
    """

    def _split_scope(self, nodeid: str) -> str:
        return PARITY if nodeid.startswith(PARITY) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    """Return what hands tests to workers."""
    return ByFile(config, log)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand what this worker has compared to the process that started it."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["tallies"] = {what: asdict(TALLIES[what]) for what in TALLIES}


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a worker has compared; one that died has said nothing."""
    for what, tally in getattr(node, "workeroutput", {}).get("tallies", {}).items():
        TALLIES[what].add(Tally(**tally))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was compared with the references."""
    for what, tally in TALLIES.items():
        if tally.checkpoints:
            terminalreporter.write_line(
                f"parity of {what}: {tally.checkpoints} checkpoints, {tally.cases} cases, "
                f"{tally.tokens} tokens compared, {tally.ties} ties"
            )


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def samples(repository: Path) -> Path:
    """The recordings that come with the repository."""
    return repository / "samples"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Fixtures too large for the repository, found through `EARSHOT_SHARED` only."""
    folder = os.environ.get("EARSHOT_SHARED")
    if not folder:
        pytest.skip("EARSHOT_SHARED is not set")
    return Path(folder)


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., WhisperTokenizer]:
    """Return a maker of tokenizers whose text tokens are the 256 bytes."""

    def make(languages: Sequence[str] = ("en", "de", "ja")) -> WhisperTokenizer:
        vocab = byte_alphabet()
        texts = ["<|endoftext|>", "<|startoftranscript|>"]
        texts += [f"<|{code}|>" for code in languages]
        texts += ["<|translate|>", "<|transcribe|>"] if languages else []
        texts += ["<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
        texts += [f"<|{place * 0.02:.2f}|>" for place in range(1501)]
        shape = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        added = [
            {"id": len(vocab) + place, "content": text, **shape, "special": True}
            for place, text in enumerate(texts)
        ]
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
        return WhisperTokenizer(
            {
                "version": "1.0",
                "added_tokens": added,
                "pre_tokenizer": {**byte_level, "use_regex": True},
                "decoder": {**byte_level, "use_regex": True},
                "model": {"type": "BPE", "vocab": vocab, "merges": []},
            }
        )

    return make
