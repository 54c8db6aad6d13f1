"""A person gives the page a recording, watches the words come, and takes them along."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.api.live import LiveServer, until
from tests.browser.conftest import OpenPage
from tests.browser.steps import give, in_state
from tests.browser.talking import RECORDING, SEGMENTS, WITHDRAWN, Talk
from tests.process.running import Running

TEXT = " ".join(text for _, _, text in SEGMENTS)


def segments(page: Page) -> list[str]:
    return page.locator("#segments .text").all_inner_texts()


def test_a_recording_becomes_segments_with_times(talking: LiveServer, open_page: OpenPage) -> None:
    page = open_page(talking)
    give(page)
    in_state(page, "done")
    assert segments(page) == [text for _, _, text in SEGMENTS]
    assert page.locator("#segments .time").all_inner_texts() == ["0:00", "0:00", "0:01"]
    expect(page.locator("#live")).to_be_empty()
    expect(page.locator("#work-meta")).to_have_text("English · 0:03 · tiny-random")


def test_words_are_seen_before_the_end(
    talking: LiveServer, talk: Talk, open_page: OpenPage
) -> None:
    talk.hold_at("Good mor")
    page = open_page(talking)
    give(page)
    expect(page.locator("#live")).to_contain_text("Good mo")
    in_state(page, "busy")
    assert segments(page) == []
    talk.go_on()
    in_state(page, "done")


def test_what_is_withdrawn_is_struck_out(
    talking: LiveServer, talk: Talk, open_page: OpenPage
) -> None:
    page = open_page(talking)
    talk.hold_at(f"{WITHDRAWN} aga")
    give(page)
    withdrawn = page.locator("#live .withdrawn")
    expect(withdrawn).to_have_text([" ", *WITHDRAWN])
    expect(withdrawn.first).to_have_css("text-decoration-line", "line-through")
    expect(page.locator("#segments .text")).to_have_text([text for _, _, text in SEGMENTS[:2]])
    talk.go_on()
    in_state(page, "done")
    expect(withdrawn).to_have_count(0)


def test_cancelling_frees_the_place(talking: LiveServer, talk: Talk, open_page: OpenPage) -> None:
    talk.hold_at("Good mor")
    page = open_page(talking)
    give(page)
    expect(page.locator("#live")).to_contain_text("Good mo")
    page.get_by_role("button", name="Cancel").click()
    in_state(page, "cancelled")
    until(
        lambda: talking.metric("earshot_requests_cancelled_total", stage="transcribe") == 1,
        "the server knows, though the transcript goes on",
    )
    talk.go_on()
    talking.until_idle()
    expect(page.locator("#progress")).to_have_text("Cancelled")
    expect(page.locator("#live")).to_contain_text("Good mo")


def test_a_file_that_is_dropped_is_transcribed(talking: LiveServer, open_page: OpenPage) -> None:
    page = open_page(talking)
    page.evaluate(
        """bytes => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([Uint8Array.from(bytes)], "dropped.wav"));
            const fire = (name) => document.body.dispatchEvent(new DragEvent(
                name, { dataTransfer: transfer, bubbles: true, cancelable: true }));
            fire("dragenter");
            const { classList } = document.getElementById("veil");
            if (!classList.contains("shown")) throw Error("no veil");
            fire("drop");
        }""",
        list(RECORDING),
    )
    in_state(page, "done")
    expect(page.locator("#work-title")).to_have_text("dropped.wav")
    expect(page.locator("#veil")).not_to_be_visible()


def test_a_recording_from_the_microphone_is_transcribed(
    talking: LiveServer, open_page: OpenPage
) -> None:
    page = open_page(talking)
    page.get_by_role("button", name="Record", exact=True).click()
    in_state(page, "recording")
    expect(page.locator("#recording-clock")).to_have_text(re.compile(r"0:(0[2-9]|[1-5]\d)"))
    page.get_by_role("button", name="Stop and transcribe").click()
    in_state(page, "done")
    expect(page.locator("#work-title")).to_have_text("recording.webm")
    assert segments(page)
    until(lambda: talking.metric("earshot_audio_seconds_total") >= 1, "it is counted")
    expect(page.get_by_role("button", name="Play", exact=True)).to_be_enabled()


def test_a_recording_can_be_discarded(talking: LiveServer, open_page: OpenPage) -> None:
    page = open_page(talking)
    page.get_by_role("button", name="Record", exact=True).click()
    page.get_by_role("button", name="Discard").click()
    in_state(page, "empty")
    expect(page.get_by_role("button", name="Record", exact=True)).to_be_focused()
    assert talking.metric("earshot_upload_bytes_total") == 0


@pytest.mark.parametrize("suffix", ["srt", "vtt", "txt", "json"])
def test_the_transcript_is_downloaded(
    talking: LiveServer, open_page: OpenPage, suffix: str
) -> None:
    page = open_page(talking)
    give(page)
    in_state(page, "done")
    with page.expect_download() as download:
        page.locator(f"[data-download={suffix}]").click()
    assert download.value.suggested_filename == f"talk; 1.{suffix}"
    content = Path(download.value.path()).read_text(encoding="utf-8")
    expected = {
        "srt": (
            "1\n00:00:00,000 --> 00:00:00,600\nGood morning\n\n"
            "2\n00:00:00,600 --> 00:00:01,200\neverybody <here> & there\n\n"
            "3\n00:00:01,200 --> 00:00:03,000\nagain\n"
        ),
        "vtt": (
            "WEBVTT\n\n00:00:00.000 --> 00:00:00.600\nGood morning\n\n"
            "00:00:00.600 --> 00:00:01.200\neverybody &lt;here&gt; &amp; there\n\n"
            "00:00:01.200 --> 00:00:03.000\nagain\n"
        ),
        "txt": f"{TEXT}\n",
    }
    if suffix == "json":
        done = json.loads(content)
        assert (done["type"], done["text"], len(done["segments"])) == ("done", TEXT, 3)
    else:
        assert content == expected[suffix]


def test_text_and_curl_are_copied(talking: LiveServer, open_page: OpenPage) -> None:
    page = open_page(talking)
    page.get_by_text("Options").click()
    page.get_by_label("Language").select_option("de")
    page.get_by_label("Text that might").fill("@it's")
    give(page)
    in_state(page, "done")
    page.get_by_role("button", name="Copy text").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == TEXT
    page.get_by_text("The same from a terminal").click()
    page.get_by_role("button", name="Copy curl").click()
    expect(page.locator("#said")).to_have_text("Copied")
    command = page.evaluate("navigator.clipboard.readText()").replace(" \\\n  ", " ")
    wanted = (
        """curl -N -F 'file=@"talk; 1.wav"' -F language=de"""
        r""" -F 'initial_prompt=@it'\''s' """
        f"{talking.url}/transcribe"
    )
    assert command == wanted.replace("-F 'initial", "--form-string 'initial")


def test_the_live_view_shows_what_the_server_does(
    talking: LiveServer, talk: Talk, open_page: OpenPage
) -> None:
    page = open_page(talking)
    expect(page.locator("#rows")).to_have_text("0 of 1")
    talk.hold_at("Good mor")
    give(page)
    expect(page.locator("#rows")).to_have_text("1 of 1")
    expect(page.locator("#requests")).to_have_text("1 of 2")
    expect(page.locator("#cells .used")).to_have_count(1)
    talk.go_on()
    in_state(page, "done")
    expect(page.locator("#rows")).to_have_text("0 of 1")
    expect(page.locator("#cells .used")).to_have_count(0)


def test_the_built_in_model_hears_the_sample(open_page: OpenPage, samples: Path) -> None:
    with Running() as running:
        page = open_page(running.wait_ready())  # type: ignore[arg-type]
        expect(page.locator("#service-text")).to_have_text(re.compile("builtin on "))
        expect(page.get_by_label("Language")).not_to_be_visible()
        page.set_input_files("#file", samples / "zero_three_five_one.wav")
        in_state(page, "done")
        assert segments(page) == ["zero three five one"]
        expect(page.locator("#segments .word")).to_have_text(["zero", "three", "five", "one"])
        expect(page.get_by_role("button", name="Play", exact=True)).to_be_enabled()
        page.locator("#segments .word").nth(2).click()
        expect(page.locator("#segments .word.current")).to_have_text(["five"])
