from __future__ import annotations

from dataclasses import replace

import pytest

from service.transcription.events import WordTime
from service.transcription.render import Format, render_text, verbose
from service.transcription.subtitles import CueLayout
from tests.unit.transcription.done import done, segment

DONE = done(
    segment(0, 0.0, 1.5, " Guten\tTag."), segment(1, 3723.004, 3725.0, " Auf <Wieder>sehen!")
)
LAYOUT = CueLayout()


def test_plain_text_is_the_text_and_a_line_break() -> None:
    assert render_text(DONE, Format.TEXT, LAYOUT) == "Guten\tTag. Auf <Wieder>sehen!\n"


def test_a_table_has_milliseconds_and_a_line_for_each_segment() -> None:
    assert render_text(DONE, Format.TSV, LAYOUT) == (
        "start\tend\ttext\n0\t1500\tGuten Tag.\n3723004\t3725000\tAuf <Wieder>sehen!\n"
    )


def test_subtitles_follow_the_layout() -> None:
    assert render_text(DONE, Format.SRT, LAYOUT) == (
        "1\n00:00:00,000 --> 00:00:01,500\nGuten Tag.\n\n"
        "2\n01:02:03,004 --> 01:02:05,000\nAuf <Wieder>sehen!\n\n"
    )
    assert render_text(DONE, Format.VTT, CueLayout(max_line_width=12)) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nGuten Tag.\n\n"
        "01:02:03.004 --> 01:02:04.212\nAuf\n&lt;Wieder&gt;sehe\n\n"
        "01:02:04.212 --> 01:02:05.000\nn!\n\n"
    )


def test_json_is_no_text() -> None:
    for form in (Format.JSON, Format.VERBOSE_JSON):
        with pytest.raises(ValueError, match="is no text"):
            render_text(DONE, form, LAYOUT)


def test_verbose_json_has_what_openai_has() -> None:
    data = verbose(DONE, "transcribe")
    assert list(data) == ["task", "language", "duration", "text", "segments", "usage"]
    assert (data["task"], data["language"], data["duration"]) == ("transcribe", "german", 3725.5)
    assert data["usage"] == {"type": "duration", "seconds": 3725.5}
    first, second = data["segments"]
    assert first == {
        "id": 0,
        "seek": 0,
        "start": 0.0,
        "end": 1.5,
        "text": " Guten\tTag.",
        "tokens": [50_364, 9, 50_464],
        "temperature": 0.2,
        "avg_logprob": -0.25,
        "compression_ratio": 1.25,
        "no_speech_prob": 0.125,
    }
    assert second["no_speech_prob"] == 0.0, "a model without the token: a number all the same"


def test_a_translation_is_english() -> None:
    data = verbose(DONE, "translate")
    assert (data["task"], data["language"]) == ("translate", "english")


def test_a_recording_without_speech_has_a_language_all_the_same() -> None:
    assert verbose(done(language=None), "transcribe")["language"] == "unknown"


def test_words_have_their_own_times_in_json_and_in_cues() -> None:
    words = (
        WordTime(" Guten", 0.5, 0.7, 0.9),
        WordTime(" Tag.", 0.8, 1.25, 0.8),
        WordTime(" Ja.", 4.0, 4.5, 0.8),
    )
    spoken = done(replace(segment(0, 0.0, 5.0, " Guten Tag. Ja."), words=words))
    data = verbose(spoken, "transcribe", ["word"])
    assert data["words"] == [
        {"word": "Guten", "start": 0.5, "end": 0.7},
        {"word": "Tag.", "start": 0.8, "end": 1.25},
        {"word": "Ja.", "start": 4.0, "end": 4.5},
    ]
    assert render_text(spoken, Format.SRT, LAYOUT) == (
        "1\n00:00:00,500 --> 00:00:01,250\nGuten Tag.\n\n2\n00:00:04,000 --> 00:00:04,500\nJa.\n\n"
    )


def test_segments_are_there_only_if_they_are_asked_for() -> None:
    assert "segments" not in verbose(DONE, "transcribe", ["word"])
    assert "segments" in verbose(DONE, "transcribe", ["word", "segment"])
