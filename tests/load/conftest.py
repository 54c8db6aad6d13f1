from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.api.held import at_rest, nothing_is_left_of


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """What a crowd of clients held is free again."""
    before = at_rest()
    yield
    nothing_is_left_of(before)
