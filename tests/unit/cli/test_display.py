"""What reaches stdout, with and without a terminal."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

from service.cli.display import TranscriptDisplay, complain

EVENTS: list[dict[str, Any]] = [
    {"type": "started", "id": "1", "model": "m", "duration_s": 4.0},
    {"type": "token", "index": 0, "window": 0, "text": "", "timestamp_s": 0.0},
    {"type": "token", "index": 1, "window": 0, "text": " zero"},
    {"type": "token", "index": 2, "window": 0, "text": " nonsense"},
    {"type": "retract", "window": 0, "from_index": 2, "reason": "seek"},
    {"type": "segment", "id": 0, "text": " zero", "start_s": 0.0, "end_s": 1.5},
    {"type": "token", "index": 3, "window": 1, "text": " three"},
    {"type": "segment", "id": 1, "text": " three", "start_s": 1.5, "end_s": 3.0},
    {"type": "done", "text": "zero three"},
]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _show(display: TranscriptDisplay, events: list[dict[str, Any]]) -> None:
    with display:
        for event in events:
            display.show(event)


def _pipe() -> Console:
    return Console(file=io.StringIO(), force_terminal=False)


def test_a_pipe_gets_each_segment_when_it_is_final_and_nothing_that_was_retracted() -> None:
    out = io.StringIO()
    display = TranscriptDisplay("a.wav", out=out, console=_pipe())
    seen = []
    with display:
        for event in EVENTS:
            display.show(event)
            seen.append(out.getvalue())
    assert seen[5] == "zero"
    assert out.getvalue() == "zero three\n"


def test_a_terminal_shows_tokens_as_they_come_and_keeps_the_final_text() -> None:
    drawn = Terminal()
    out = Terminal()
    console = Console(file=drawn, force_terminal=True, width=80)
    _show(TranscriptDisplay("a.wav", out=out, console=console), EVENTS)
    assert "zero nonsense" in drawn.getvalue()
    assert out.getvalue() == "zero three\n"


def test_several_files_are_told_apart() -> None:
    out = io.StringIO()
    _show(TranscriptDisplay("a.wav", labelled=True, out=out, console=_pipe()), EVENTS)
    assert out.getvalue() == "a.wav: zero three\n"


def test_silence_is_an_empty_line() -> None:
    out = io.StringIO()
    silent = [EVENTS[0], {"type": "done", "text": ""}]
    _show(TranscriptDisplay("a.wav", out=out, console=_pipe()), silent)
    assert out.getvalue() == "\n"


def test_json_is_one_line_with_the_name_of_the_file() -> None:
    out = io.StringIO()
    _show(TranscriptDisplay("a.wav", as_json=True, out=out, console=_pipe()), EVENTS)
    assert out.getvalue().count("\n") == 1
    assert json.loads(out.getvalue()) == {"file": "a.wav", "type": "done", "text": "zero three"}


def test_an_error_in_the_middle_ends_the_line() -> None:
    out = io.StringIO()
    display = TranscriptDisplay("a.wav", out=out, console=_pipe())
    stopped = [*EVENTS[:6], {"type": "started"}]
    with pytest.raises(KeyError, match="duration_s"):
        _show(display, stopped)
    assert out.getvalue() == "zero\n"


def test_markup_in_a_name_is_a_name() -> None:
    drawn = Terminal()
    console = Console(file=drawn, force_terminal=True, width=80)
    _show(TranscriptDisplay("[/red] [a].wav", out=io.StringIO(), console=console), EVENTS)
    assert "[/red] [a].wav" in drawn.getvalue()


def test_a_complaint_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    complain("the first\n   and the second")
    assert capsys.readouterr().err == "earshot: the first and the second\n"
