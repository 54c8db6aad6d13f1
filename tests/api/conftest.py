"""A tiny random multilingual model behind a live server: real engine, real decoder, real HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from service.text.tokenizer import WhisperTokenizer
from tests.api.held import at_rest, nothing_is_left_of
from tests.api.live import Limits, LiveServer, Parts, services_of
from tests.api.tiny import tiny_parts


@pytest.fixture(scope="session")
def parts(make_tokenizer: Callable[..., WhisperTokenizer]) -> Parts:
    return tiny_parts(make_tokenizer())


@pytest.fixture(scope="session")
def server(parts: Parts) -> Iterator[LiveServer]:
    """The server for whatever needs no special limits."""
    with LiveServer(services_of(parts, Limits(api={"max_upload_bytes": 2_000_000}))) as live:
        yield live


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Permits, slots, tasks, threads, descriptors and children are after a test what they were."""
    before = at_rest()
    yield
    nothing_is_left_of(before)


@pytest.fixture
def live(server: LiveServer) -> Iterator[LiveServer]:
    """The server, idle before and after."""
    server.until_idle()
    yield server
    server.until_idle()
