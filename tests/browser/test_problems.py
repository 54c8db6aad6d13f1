"""What goes wrong is said in words, and can be tried again."""

from __future__ import annotations

import httpx
import pytest
from playwright.sync_api import Page, Route, expect

from service.api.keys import ApiKeys
from service.engine.engine import EngineState
from tests.api.live import (
    DEADLINE_S,
    Limits,
    LiveServer,
    Parts,
    gate,
    noise,
    services_of,
    stream_events,
    until,
    wav,
)
from tests.browser.conftest import OpenPage
from tests.browser.steps import FILE, give, in_state, once_it_knows, payload
from tests.browser.talking import RECORDING, Talk


def problem(page: Page) -> tuple[str, str]:
    expect(page.get_by_role("alert")).to_be_visible()
    return page.locator("#problem-title").inner_text(), page.locator("#problem-text").inner_text()


def test_what_is_no_audio_is_refused_in_words(talking: LiveServer, open_page: OpenPage) -> None:
    page = open_page(talking)
    page.set_input_files("#file", files=[payload("notes.txt", b"notes")])
    in_state(page, "failed")
    title, text = problem(page)
    assert title == "That is no recording that can be read"
    assert "it looks like text" in text
    expect(page.locator("#problem-detail")).to_contain_text("Request ")
    expect(page.locator("#wave")).not_to_be_visible()


@pytest.mark.parametrize(
    ("size", "title", "text"),
    [
        (0, "That is no recording", "long.wav is empty."),
        (1_000_001, "That file is too large", "1.0 MB; this server takes 1.0 MB at most."),
    ],
)
def test_what_need_not_be_sent_is_refused_at_once(
    talking: LiveServer, open_page: OpenPage, size: int, title: str, text: str
) -> None:
    page = open_page(talking)
    once_it_knows(page)
    page.set_input_files("#file", files=[payload("long.wav", bytes(size))])
    in_state(page, "failed")
    shown = problem(page)
    assert title in shown[0]
    assert text in shown[1]
    assert talking.metric("earshot_upload_bytes_total") == 0


def waiting_to_know(page: Page) -> Route:
    """Load a page again, and hold the answer that it waits for to know what it may ask."""
    held: list[Route] = []
    once_it_knows(page)

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/web/facts.json", hold)
    page.reload()
    while not held:
        page.wait_for_timeout(10)
    return held[0]


def test_a_file_given_at_once_waits_for_what_the_page_asks(
    talking: LiveServer, open_page: OpenPage
) -> None:
    page = open_page(talking)
    held = waiting_to_know(page)
    page.set_input_files("#file", files=[payload("long.wav", bytes(1_000_001))])
    in_state(page, "busy")
    held.continue_()
    in_state(page, "failed")
    assert "takes 1.0 MB at most" in problem(page)[1]
    assert talking.metric("earshot_upload_bytes_total") == 0


def test_what_waits_can_be_cancelled(talking: LiveServer, open_page: OpenPage) -> None:
    page = open_page(talking)
    held = waiting_to_know(page)
    page.set_input_files("#file", files=[payload("long.wav", bytes(1_000_001))])
    in_state(page, "busy")
    page.get_by_role("button", name="Cancel").click()
    in_state(page, "cancelled")
    held.continue_()
    once_it_knows(page)
    in_state(page, "cancelled")


def test_a_busy_server_is_tried_again(talking: LiveServer, talk: Talk, open_page: OpenPage) -> None:
    page = open_page(talking)
    talk.hold_at("Good mor")
    with (
        httpx.Client(base_url=talking.url, timeout=DEADLINE_S, trust_env=False) as client,
        client.stream("POST", "/transcribe", content=RECORDING) as first,
        client.stream("POST", "/transcribe", content=RECORDING) as second,
    ):
        events = [stream_events(first), stream_events(second)]
        assert [next(stream)["type"] for stream in events] == ["started", "started"]
        give(page)
        in_state(page, "failed")
        title, text = problem(page)
        assert title == "The server is busy"
        assert "Try again in " in text
        talk.go_on()
        assert [list(stream)[-1]["type"] for stream in events] == ["done", "done"]
    until(lambda: talking.engine.stats()["requests"] == 0, "both have left")
    page.get_by_role("button", name="Try again").click()
    in_state(page, "done")
    expect(page.get_by_role("alert")).not_to_be_visible()


def test_an_option_that_the_model_cannot_take_is_named(
    talking: LiveServer, open_page: OpenPage
) -> None:
    page = open_page(talking)
    page.get_by_text("Options").click()
    page.get_by_label("Temperature").fill("7")
    give(page)
    in_state(page, "failed")
    title, text = problem(page)
    assert title == "An option has a value that is not possible"
    assert "temperature" in text


def test_a_connection_that_breaks_within_the_words_is_no_transcript(
    parts: Parts, open_page: OpenPage
) -> None:
    limits = Limits(api={"max_request_timeout_s": 0.75})
    with LiveServer(services_of(parts, limits)) as live:
        page = open_page(live)
        long = payload("long.wav", wav(noise(50.0)))
        page.set_input_files("#file", files=[long])
        in_state(page, "failed")
        title, text = problem(page)
        assert title == "It took too long"
        assert "0.75" in text
        live.until_idle()


def test_a_key_is_asked_for_and_kept_for_the_tab(parts: Parts, open_page: OpenPage) -> None:
    limits = Limits(api={"api_keys": ApiKeys(["a key"])})
    with LiveServer(services_of(parts, limits)) as live:
        page = open_page(live)
        give(page)
        in_state(page, "failed")
        assert problem(page)[0] == "This server wants an API key"
        key = page.get_by_label("API key")
        expect(key).to_be_focused()
        key.fill("a key")
        page.get_by_role("button", name="Try again").click()
        in_state(page, "done")
        expect(page.locator("#curl")).to_contain_text("Bearer $EARSHOT_API_KEY")
        page.reload()
        expect(key).to_have_value("a key")
        give(page)
        in_state(page, "done")
        live.until_idle()


def test_a_server_that_is_gone_is_reported(parts: Parts, open_page: OpenPage) -> None:
    with LiveServer(services_of(parts, Limits())) as live:
        page = open_page(live)
        expect(page.locator("#service")).to_have_attribute("data-status", "ready")
    expect(page.locator("#service")).to_have_attribute("data-status", "unreachable")
    page.set_input_files("#file", files=[FILE])
    in_state(page, "failed")
    assert problem(page)[0] == "The connection is gone"


def test_the_page_is_there_before_the_model_is(parts: Parts, open_page: OpenPage) -> None:
    opened, wait = gate()
    try:
        with LiveServer(services_of(parts, Limits(), wait), ready=False) as live:
            page = open_page(live)
            expect(page.locator("#service-text")).to_have_text("starting")
            page.set_input_files("#file", files=[FILE])
            in_state(page, "failed")
            assert problem(page)[0] == "The model is still being loaded"
            opened.set()
            until(lambda: live.services.state is EngineState.READY, "the model is there")
            expect(page.locator("#service")).to_have_attribute("data-status", "ready")
            page.get_by_role("button", name="Try again").click()
            in_state(page, "done")
    finally:
        opened.set()


def test_a_microphone_that_is_refused_is_explained(
    talking: LiveServer, open_page: OpenPage
) -> None:
    page = open_page(talking)
    page.evaluate(
        """() => {
            navigator.mediaDevices.getUserMedia =
                () => Promise.reject(new DOMException("no", "NotAllowedError"));
        }"""
    )
    page.get_by_role("button", name="Record", exact=True).click()
    title, text = problem(page)
    assert title == "No sound from the microphone"
    assert "did not let this page use the microphone" in text
