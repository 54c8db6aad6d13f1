"""What every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


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
