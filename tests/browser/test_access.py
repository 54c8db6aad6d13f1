"""The page for everybody: by keyboard, by screen reader, small and large, dark and light."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect

from tests.api.live import LiveServer
from tests.browser.conftest import OpenPage
from tests.browser.steps import FILE, give, in_state, payload, without_words
from tests.browser.talking import Talk

PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 800}


def assert_accessible(page: Page) -> None:
    results = Axe().run(page)
    assert results.violations_count == 0, results.generate_report()


def assert_no_sideways_scroll(page: Page) -> None:
    widths = page.evaluate(
        "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert widths[0] <= widths[1]


def tab_to(page: Page, wanted: Locator) -> None:
    """Press Tab until an element has the focus."""
    for _ in range(30):
        page.keyboard.press("Tab")
        if wanted.evaluate("element => element === document.activeElement"):
            return
    raise AssertionError("the Tab key does not lead there")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [PHONE, DESK], ids=["phone", "desk"])
def test_every_state_is_accessible_and_fits(
    talking: LiveServer, talk: Talk, open_page: OpenPage, scheme: str, viewport: dict[str, int]
) -> None:
    page = open_page(talking, color_scheme=scheme, viewport=viewport, reduced_motion="reduce")

    def check(state: str) -> None:
        in_state(page, state)
        assert_accessible(page)
        assert_no_sideways_scroll(page)

    expect(page.locator("#service")).to_have_attribute("data-status", "ready")
    page.get_by_text("Options").click()
    check("empty")
    page.get_by_text("Options").click()
    page.get_by_role("button", name="Record", exact=True).click()
    check("recording")
    page.get_by_role("button", name="Discard").click()
    talk.hold_at("again")
    give(page)
    expect(page.locator("#live")).to_contain_text("agai")
    check("busy")
    talk.go_on()
    in_state(page, "done")
    page.get_by_text("The same from a terminal").click()
    page.locator("#segments .time").first.click()
    expect(page.locator("#segments .current")).to_have_count(1)
    check("done")
    long_name = payload("x" * 200, b"no audio")
    page.set_input_files("#file", files=[long_name])
    check("failed")


def test_the_schemes_differ(talking: LiveServer, open_page: OpenPage) -> None:
    colours = {
        scheme: open_page(talking, color_scheme=scheme)
        .locator("body")
        .evaluate("body => getComputedStyle(body).backgroundColor")
        for scheme in ("light", "dark")
    }
    assert colours == {"light": "rgb(251, 250, 248)", "dark": "rgb(19, 20, 22)"}


def test_a_keyboard_is_enough(talking: LiveServer, open_page: OpenPage) -> None:
    page = open_page(talking)
    # From now on choosers are handed over; asked for when a key is pressed, it may be too late.
    page.on("filechooser", lambda chooser: None)
    without_words(page)
    tab_to(page, page.get_by_role("button", name="Choose a file"))
    with page.expect_file_chooser() as chooser:
        page.keyboard.press("Enter")
    chooser.value.set_files(files=[FILE])
    in_state(page, "done")
    wave = page.get_by_role("slider", name="Position in the recording")
    tab_to(page, wave)
    expect(wave).to_have_attribute("aria-valuemax", "3.0")
    page.keyboard.press("ArrowRight")
    expect(wave).to_have_attribute("aria-valuenow", "3.0")
    page.keyboard.press("Home")
    expect(wave).to_have_attribute("aria-valuenow", "0.0")
    last = page.get_by_role("button", name="Play from 0:01")
    tab_to(page, last)
    page.keyboard.press("Enter")
    expect(page.locator("#segments li").last).to_have_class("current")
    tab_to(page, page.locator("[data-download=vtt]"))
    with page.expect_download():
        page.keyboard.press("Enter")


def test_a_segment_is_heard_and_marked_while_it_plays(
    talking: LiveServer, open_page: OpenPage
) -> None:
    page = open_page(talking)
    give(page)
    in_state(page, "done")
    play = page.get_by_role("button", name="Play", exact=True)
    expect(play).to_be_enabled()
    page.get_by_text("everybody").click()
    expect(page.locator("#segments li").nth(1)).to_have_class("current")
    expect(play).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#segments li").nth(2)).to_have_class("current")
    expect(play).to_have_attribute("aria-pressed", "false")
    wave = page.locator("#wave")
    box = wave.bounding_box()
    assert box is not None
    wave.click(position={"x": box["width"] / 10, "y": box["height"] / 2})
    expect(page.locator("#segments li").first).to_have_class("current")


def test_the_waveform_is_drawn_with_its_segments(
    talking: LiveServer, talk: Talk, open_page: OpenPage
) -> None:
    page = open_page(talking)
    talk.hold_at("again")
    give(page)
    expect(page.locator("#segments li")).to_have_count(2)
    expect(page.get_by_role("button", name="Play", exact=True)).to_be_enabled()
    colours = """canvas => {
        const copy = new OffscreenCanvas(canvas.width, canvas.height);
        const context = copy.getContext("2d", { willReadFrequently: true });
        context.drawImage(canvas, 0, 0);
        const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
        const seen = new Set();
        for (let i = 0; i < data.length; i += 4)
            if (data[i + 3] === 255) seen.add(`${data[i]} ${data[i + 1]} ${data[i + 2]}`);
        return [...seen];
    }"""
    seen = page.locator("#wave-canvas").evaluate(colours)
    heard, unheard, band = "10 115 106", "195 196 196", "240 238 234"
    assert {heard, unheard, band} <= set(seen)
    talk.go_on()
    in_state(page, "done")
    seen = page.locator("#wave-canvas").evaluate(colours)
    assert unheard not in seen


def test_what_is_final_is_said_and_what_is_not_is_silent(
    talking: LiveServer, open_page: OpenPage
) -> None:
    page = open_page(talking)
    expect(page.get_by_label("Transcript", exact=True)).to_have_attribute("aria-live", "polite")
    assert page.locator("#live").get_attribute("aria-live") is None
    give(page)
    in_state(page, "done")
    expect(page.locator("#said")).to_have_text("The transcript is complete.")
