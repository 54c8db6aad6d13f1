"""`/docs` is drawn, tells what there is, and asks nobody but this service."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.api.live import LiveServer
from tests.browser.conftest import OpenPage
from tests.browser.steps import payload
from tests.browser.talking import RECORDING, SEGMENTS


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_description_is_drawn(talking: LiveServer, open_page: OpenPage, scheme: str) -> None:
    page = open_page(talking, "/docs", color_scheme=scheme)
    expect(page.get_by_role("heading", name="Earshot")).to_be_visible()
    operation = page.locator(".opblock", has_text="Transcribe a recording")
    expect(operation).to_contain_text("Transcribe a recording")
    paths = page.locator(".opblock-summary-path").all_inner_texts()
    described = talking.client.get("/openapi.json").json()["paths"]
    assert {path.replace("\u200b", "") for path in paths} == set(described)


def test_a_recording_is_transcribed_from_the_description(
    talking: LiveServer, open_page: OpenPage
) -> None:
    page = open_page(talking, "/docs")
    operation = page.locator(".opblock", has_text="Transcribe a recording")
    operation.locator(".opblock-summary-control").click()
    operation.locator("input[type=file]").set_input_files(files=[payload("talk.wav", RECORDING)])
    operation.get_by_role("button", name="Execute").click()
    expect(operation.locator(".live-responses-table .response-col_status").last).to_contain_text(
        "200"
    )
    expect(operation.locator(".live-responses-table")).to_contain_text(SEGMENTS[0][2])
