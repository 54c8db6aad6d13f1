from __future__ import annotations

import html
from collections.abc import Sequence
from datetime import timedelta
from itertools import pairwise

import srt as srt_parser
import webvtt
from hypothesis import example, given
from hypothesis import strategies as st

from service.transcription.subtitles import (
    Cue,
    CueLayout,
    TimedText,
    columns,
    estimate_times,
    lay_out,
    split_text,
    srt,
    vtt,
)

LAYOUT = CueLayout()


def segment(text: str, start_s: float = 0.0, end_s: float = 5.0) -> list[TimedText]:
    return estimate_times(text, start_s, end_s)


def shown(cues: Sequence[Cue]) -> list[str]:
    return ["\n".join(cue.lines) for cue in cues]


def test_a_short_segment_is_one_cue_with_its_times() -> None:
    assert lay_out([segment(" Hello there.", 1.2, 3.4)], LAYOUT) == [
        Cue(1200, 3400, ("Hello there.",))
    ]


def test_lines_are_as_even_as_they_can_be() -> None:
    (cue,) = lay_out([segment(" The quick brown fox jumps over the lazy dog again.")], LAYOUT)
    assert cue.lines == ("The quick brown fox jumps", "over the lazy dog again.")


def test_a_long_segment_becomes_cues_that_end_with_sentences() -> None:
    text = (
        " This is the first sentence of the talk. And here the second one begins, which is"
        " long enough for another cue. The third is short."
    )
    cues = lay_out([segment(text, 0.0, 12.0)], LAYOUT)
    assert shown(cues) == [
        "This is the first sentence of the talk.",
        "And here the second one begins, which\nis long enough for another cue.",
        "The third is short.",
    ]
    assert cues[0].start_ms == 0
    assert cues[-1].end_ms == 12_000


def test_a_cue_stays_no_longer_than_it_may() -> None:
    words = [TimedText(f" w{i}", i * 1.0, i + 1.0) for i in range(10)]
    cues = lay_out([words], CueLayout(max_cue_seconds=3.0))
    assert [(cue.start_ms, cue.end_ms) for cue in cues] == [
        (0, 3000), (3000, 6000), (6000, 9000), (9000, 10_000),
    ]  # fmt: skip


def test_a_pause_between_words_begins_a_new_cue() -> None:
    words = [TimedText(" one", 0, 0.5), TimedText(" two", 0.6, 1), TimedText(" three", 2.5, 3)]
    assert shown(lay_out([words], LAYOUT)) == ["one two", "three"]
    assert shown(lay_out([words], CueLayout(max_gap_seconds=2))) == ["one two three"]


def test_a_cue_has_no_more_lines_than_it_may() -> None:
    text = " one two three four five six seven eight nine ten eleven twelve"
    narrow = lay_out([segment(text)], CueLayout(max_line_width=12, max_line_count=1))
    assert all(len(cue.lines) == 1 and columns(cue.lines[0]) <= 12 for cue in narrow)
    wide = lay_out([segment(text)], CueLayout(max_line_width=12, max_line_count=3))
    assert max(len(cue.lines) for cue in wide) == 3
    assert len(wide) < len(narrow)


def test_asian_text_breaks_between_characters_but_not_before_a_full_stop() -> None:
    text = "これは長い文章です。もう一つの文章があります。"
    layout = CueLayout(max_line_width=20, max_line_count=2)
    lines = [line for cue in lay_out([segment(text)], layout) for line in cue.lines]
    assert "".join(lines) == text
    assert all(columns(line) <= 20 and line[0] not in "。、" for line in lines)
    assert split_text(" ab 日本。x") == [" ab", " 日", "本。", "x"]


def test_a_word_wider_than_a_line_is_cut() -> None:
    cues = lay_out([segment(" " + "x" * 50)], CueLayout(max_line_width=20, max_line_count=2))
    assert [line for cue in cues for line in cue.lines] == ["x" * 20, "x" * 20, "x" * 10]


def test_segments_that_overlap_or_take_no_time_are_shown_one_after_the_other() -> None:
    segments = [
        segment(" a", 1, 1),
        segment(" b", 1, 1),
        segment(" c", 0.5, 9),
        segment(" d", 2, 2),
    ]
    cues = lay_out(segments, LAYOUT)
    assert cues == [
        Cue(1000, 1001, ("a",)),
        Cue(1001, 1002, ("b",)),
        Cue(1002, 2000, ("c",)),
        Cue(2000, 2500, ("d",)),
    ]


def test_hours_are_right_after_the_first() -> None:
    cues = [Cue(3_723_004, 3_725_000, ("a",)), Cue(360_000_000, 360_000_001, ("b",))]
    assert "01:02:03,004 --> 01:02:05,000\na\n" in srt(cues)
    assert "01:02:03.004 --> 01:02:05.000\na\n" in vtt(cues)
    assert "100:00:00,000 --> 100:00:00,001\nb\n" in srt(cues)


def test_nothing_was_said() -> None:
    assert (srt([]), vtt([])) == ("", "WEBVTT\n\n")


def test_vtt_escapes_what_would_be_a_tag() -> None:
    (cue,) = lay_out([segment(" a <b> & c --> d")], LAYOUT)
    assert vtt([cue]).splitlines()[-2] == "a &lt;b&gt; &amp; c --&gt; d"
    assert srt([cue]).splitlines()[-2] == "a <b> & c -> d"


TEXTS = st.text(
    st.one_of(
        st.sampled_from(" abc.,!?-->&<{}\t\n\r\0日本。ー\u3000\u2028"),
        st.characters(exclude_categories=["Cs"]),
    ),
    max_size=120,
).filter(lambda text: text.strip())
SECONDS = st.floats(0, 400_000, allow_nan=False)
SEGMENTS = st.lists(st.builds(estimate_times, TEXTS, SECONDS, SECONDS), max_size=6)
LAYOUTS = st.builds(
    CueLayout,
    max_line_width=st.integers(2, 60),
    max_line_count=st.integers(1, 3),
    max_cue_seconds=st.floats(0.5, 30),
    max_gap_seconds=st.floats(0, 5),
)


def visible(text: str) -> str:
    return "".join(text.replace("-->", "->").replace("\0", "\ufffd").split())


@given(SEGMENTS, LAYOUTS)
@example([[TimedText("00\0", 0, 0)]], CueLayout(2, 1))
def test_cues_are_in_order_within_their_limits_and_lose_nothing(
    segments: list[list[TimedText]], layout: CueLayout
) -> None:
    cues = lay_out(segments, layout)
    for cue in cues:
        assert 0 <= cue.start_ms < cue.end_ms
        assert 1 <= len(cue.lines) <= layout.max_line_count
        assert all(columns(line) <= layout.max_line_width for line in cue.lines)
        assert all(line.strip() for line in cue.lines)
    for before, after in pairwise(cues):
        assert before.end_ms <= after.start_ms
    said = "".join(piece.text for pieces in segments for piece in pieces)
    assert visible("".join("".join(cue.lines) for cue in cues)) == visible(said)


@given(SEGMENTS, LAYOUTS)
def test_a_parser_of_srt_reads_every_cue_back(
    segments: list[list[TimedText]], layout: CueLayout
) -> None:
    cues = lay_out(segments, layout)
    parsed = list(srt_parser.parse(srt(cues)))
    assert [subtitle.index for subtitle in parsed] == list(range(1, len(cues) + 1))
    for cue, subtitle in zip(cues, parsed, strict=True):
        assert subtitle.start == timedelta(milliseconds=cue.start_ms)
        assert subtitle.end == timedelta(milliseconds=cue.end_ms)
        assert visible(subtitle.content) == visible("".join(cue.lines))


def _ms(clock: str) -> int:
    hours, minutes, seconds = clock.split(":")
    return (int(hours) * 60 + int(minutes)) * 60_000 + int(seconds.replace(".", ""))


@given(SEGMENTS, LAYOUTS)
def test_a_parser_of_webvtt_reads_every_cue_back(
    segments: list[list[TimedText]], layout: CueLayout
) -> None:
    cues = lay_out(segments, layout)
    parsed = webvtt.from_string(vtt(cues))
    assert len(parsed) == len(cues)
    for cue, caption in zip(cues, parsed, strict=True):
        assert (_ms(caption.start), _ms(caption.end)) == (cue.start_ms, cue.end_ms)
        assert visible(html.unescape(caption.raw_text)) == visible("".join(cue.lines))
