"""Parts of the page with input that a server seldom gives, in the browser that runs them."""

from __future__ import annotations

import itertools
from typing import Any

from playwright.sync_api import Page, expect

from tests.api.live import LiveServer
from tests.browser.conftest import OpenPage
from tests.browser.steps import give, in_state

WORDS: list[dict[str, Any]] = [
    {"word": " one", "start_s": 0.0, "end_s": 0.5, "probability": 0.9},
    {"word": " two,", "start_s": 0.5, "end_s": 1.0, "probability": 0.9},
    {"word": "-three", "start_s": 1.0, "end_s": 1.5, "probability": 0.9},
]
SEGMENT: dict[str, Any] = {
    "id": 0, "window": 0, "start_s": 0.0, "end_s": 2.0, "text": " one two,-three",
    "tokens": [7, 8, 9], "words": WORDS,
}  # fmt: skip


def run(page: Page, module: str, body: str, argument: object) -> Any:
    """Run JavaScript with a module of the page as `m` and an argument as `a`."""
    script = f"async a => {{ const m = await import('/web/{module}'); {body} }}"
    return page.evaluate(script, argument)


def test_events_are_read_whatever_the_pieces(talking: LiveServer, open_page: OpenPage) -> None:
    page = open_page(talking)
    stream = (
        ': keep-alive\n\nevent: a\ndata: {"text": "é \\u2028 中"}\n\n'
        'event: b\r\ndata: {"n":\r\ndata: 1}\r\n\r\ndata:{"n": 2}\r\r'
        'event: no data\n\ndata: {"cut": "off"}'
    ).encode()
    for size in (1, 2, 3, 7, len(stream)):
        pieces = [list(stream[i : i + size]) for i in range(0, len(stream), size)]
        events = run(
            page,
            "stream.js",
            """const body = new ReadableStream({ start(c) {
                for (const piece of a) c.enqueue(Uint8Array.from(piece));
                c.close();
            } });
            const events = [];
            for await (const event of m.eventsOf(body)) events.push(event);
            return events;""",
            pieces,
        )
        assert events == [{"text": "é \u2028 中"}, {"n": 1}, {"n": 2}]


def test_words_with_times_are_marked_and_heard(talking: LiveServer, open_page: OpenPage) -> None:
    page = open_page(talking)
    give(page)
    in_state(page, "done")
    run(
        page,
        "transcript.js",
        """const list = document.getElementById("segments");
        window.played = [];
        const made = new m.Transcript(list, document.getElementById("live"),
            (seconds) => window.played.push(seconds));
        made.segment({ ...a, words: undefined });
        made.done({ segments: [a] });
        made.highlight(0.6);""",
        SEGMENT,
    )
    words = page.locator("#segments .word")
    expect(words).to_have_text(["one", "two,", "-three"])
    expect(page.locator("#segments .text")).to_have_text("one two,-three")
    expect(page.locator("#segments .word.current")).to_have_text("two,")
    page.locator("#segments .word").first.focus()
    page.keyboard.press("ArrowRight")
    expect(words.nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    words.nth(2).click()
    assert page.evaluate("window.played") == [0.5, 1.0]
    assert words.evaluate_all("spans => spans.map(span => span.tabIndex)") == [-1, 0, -1]


def test_cues_are_cut_where_words_allow_it(talking: LiveServer, open_page: OpenPage) -> None:
    page = open_page(talking)
    words = [
        {"word": f" word{i:02}", "start_s": i / 2, "end_s": (i + 1) / 2, "probability": 1}
        for i in range(30)
    ]
    text = "".join(str(word["word"]) for word in words)
    long = {**SEGMENT, "end_s": 15.0, "text": text, "words": words}
    cues = run(page, "formats.js", "return m.cuesOf(a);", [long, {**SEGMENT, "words": None}])
    assert " ".join(cue["text"] for cue in cues[:-1]) == text.strip()
    assert cues[-1]["text"] == "one two,-three"
    assert all(len(cue["text"]) <= 84 and cue["end"] - cue["start"] <= 7 for cue in cues[:-1])
    assert all(a["end"] == b["start"] for a, b in itertools.pairwise(cues[:-1]))


def test_hours_and_cues_without_length_are_written(
    talking: LiveServer, open_page: OpenPage
) -> None:
    page = open_page(talking)
    late = {"start_s": 3599.9996, "end_s": 3599.9996, "text": " late\nword "}
    silent = {"start_s": 1.0, "end_s": 2.0, "text": "  "}
    srt = run(page, "formats.js", "return m.toSrt({ segments: a });", [silent, late])
    assert srt == "1\n01:00:00,000 --> 01:00:00,010\nlate word\n"
    clocks = run(page, "formats.js", "return a.map(m.clock);", [0, 59.99, 61, 3723])
    assert clocks == ["0:00", "0:59", "1:01", "1:02:03"]


def test_file_names_are_quoted_for_curl_and_for_the_shell(
    talking: LiveServer, open_page: OpenPage
) -> None:
    page = open_page(talking)
    commands = run(
        page,
        "curl.js",
        "return a.map(name => m.curlCommand('http://x/transcribe', name, [], true));",
        ["a.wav", 'it\'s "it".wav', "a,b.wav", "back\\slash.wav"],
    )
    parts = [command.split(" \\\n  ")[2] for command in commands]
    assert parts == [
        "-F file=@a.wav",
        r"""-F 'file=@"it'\''s \"it\".wav"'""",
        """-F 'file=@"a,b.wav"'""",
        r"""-F 'file=@"back\\slash.wav"'""",
    ]
    assert '-H "Authorization: Bearer $EARSHOT_API_KEY"' in commands[0]
