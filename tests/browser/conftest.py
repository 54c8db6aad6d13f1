"""A real headless Chromium before the page, and a server whose words a test decides on.

Each page is watched: a request to another origin, a breach of the content security policy or an
error in its scripts fails the test. Playwright's event loop belongs to the thread while it runs, so
a browser lives for one module and no longer.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from service.text.tokenizer import WhisperTokenizer
from tests.api.live import DEADLINE_S, LiveServer, Parts
from tests.api.tiny import tiny_parts
from tests.browser.talking import Talk, talking_server

DEADLINE_MS = 1000 * DEADLINE_S / 2
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
)  # fmt: skip


def _chromium() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    if os.environ.get("REQUIRE_BROWSER"):
        pytest.fail("there is no Chromium, and REQUIRE_BROWSER is set")
    pytest.skip("there is no Chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def browser(samples: Path) -> Iterator[Browser]:
    """Chromium, with a recording where its microphone would be."""
    path = _chromium()
    microphone = f"--use-file-for-fake-audio-capture={samples / 'zero_three_five_one.wav'}"
    expect.set_options(timeout=DEADLINE_MS)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=[*FLAGS, microphone])
        yield launched
        launched.close()


class OpenPage(Protocol):
    """Opens a page of a server; the keywords are those of a browser context."""

    def __call__(self, live: LiveServer, path: str = "/", **context: Any) -> Page: ...


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """Opens pages that may do nothing wrong until the test is over."""
    wrong: list[str] = []
    contexts = []

    def opened(live: LiveServer, path: str = "/", **context: Any) -> Page:
        contexts.append(browser.new_context(**context))
        contexts[-1].grant_permissions(["clipboard-read", "clipboard-write", "microphone"])
        page = contexts[-1].new_page()
        page.set_default_timeout(DEADLINE_MS)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: note(message.type, message.text))
        page.on("request", lambda request: check(request.url))

        def note(kind: str, text: str) -> None:
            # Chromium reports each answer that is not a success itself: the page shows them.
            if kind in ("error", "warning") and not text.startswith("Failed to load resource"):
                wrong.append(text)

        def check(url: str) -> None:
            if not url.startswith((f"{live.url}/", f"blob:{live.url}/", "data:")):
                wrong.append(f"a request to {url}")

        page.goto(live.url + path)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture(scope="session")
def parts(make_tokenizer: Callable[..., WhisperTokenizer]) -> Parts:
    return tiny_parts(make_tokenizer())


@pytest.fixture
def talk(parts: Parts) -> Talk:
    """What the server says: two segments in the first second, then the rest of the recording."""
    return Talk(parts.tokenizer)


@pytest.fixture
def talking(parts: Parts, talk: Talk) -> Iterator[LiveServer]:
    """The server, which must have nothing left in its hands after the test."""
    with talking_server(parts, talk) as live:
        try:
            yield live
        finally:
            talk.go_on()
        live.until_idle()
