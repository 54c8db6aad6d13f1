"""What a person does on the page, as functions."""

from __future__ import annotations

from playwright.sync_api import FilePayload, Page, expect

from tests.browser.talking import RECORDING


def payload(name: str, content: bytes) -> FilePayload:
    """Return a file, as the browser takes it."""
    return FilePayload(name=name, mimeType="application/octet-stream", buffer=content)


FILE = payload("talk; 1.wav", RECORDING)


def give(page: Page) -> None:
    """Choose the recording, once the page knows what the service can do.

    Without the times of words, which move those of segments: they are seen with the built-in model.
    """
    without_words(page)
    page.set_input_files("#file", files=[FILE])


def without_words(page: Page) -> None:
    """Leave the times of words out, once the page knows what the service can do."""
    once_it_knows(page)
    page.locator("[name=word_timestamps]").evaluate("box => { box.checked = false; }")


def once_it_knows(page: Page) -> None:
    """Wait for the page to offer what the service can do, which it asks when it is opened."""
    expect(page.locator("[data-option=temperature]")).not_to_have_attribute("hidden", "")


def in_state(page: Page, state: str) -> None:
    """Wait for the page to be in a state."""
    expect(page.locator("body")).to_have_attribute("data-state", state)
