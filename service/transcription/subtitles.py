"""Readable subtitle cues from timed text, written as SRT and WebVTT. Pure: knows nothing of models.

A cue is what a viewer reads at once: a few short lines, for a few seconds. It never crosses a
segment, begins anew after a pause, and ends with a sentence or a clause where one ends in time. Why
no packaged library does the writing: docs/adr/0008.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from wcwidth import wcwidth

_MIN_CUE_MS = 500
"""A shorter cue stays for as long as this, where the next one leaves room."""
_SENTENCE_END = tuple(".?!…。？！")
_CLAUSE_END = (*_SENTENCE_END, *",;:—、，；：")
_CLOSING = frozenset("、。，．：；？！」』）〕】》〉…ーぁぃぅぇぉっゃゅょァィゥェォッャュョ")
"""Characters that may not begin a line: they stay with the one before them."""
_WIDE = 2


@dataclass(frozen=True, slots=True)
class TimedText:
    """A piece of text that no line break may part: a word, or one character of an Asian script.

    Attributes:
        text: with the blanks before it.
        start_s, end_s: seconds in the recording.
    """

    text: str
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class CueLayout:
    """What a viewer can read.

    Attributes:
        max_line_width: columns of a line; characters of Asian scripts take two.
        max_line_count: lines of a cue.
        max_cue_seconds: how long a cue stays; a single longer word has its own time.
        max_gap_seconds: a longer pause between two words begins a new cue.
    """

    max_line_width: int = 42
    max_line_count: int = 2
    max_cue_seconds: float = 7.0
    max_gap_seconds: float = 1.0


@dataclass(frozen=True, slots=True)
class Cue:
    """Lines of text and the milliseconds from and to which they are shown."""

    start_ms: int
    end_ms: int
    lines: tuple[str, ...]


def estimate_times(text: str, start_s: float, end_s: float) -> list[TimedText]:
    """Return the pieces of a text, each with a share of its time as large as its share of columns.

    For a segment whose words have no times of their own.
    """
    texts = split_text(text)
    widths = [max(1, columns(text)) for text in texts]
    second_per_column = (end_s - start_s) / max(1, sum(widths))
    timed, position = [], 0
    for piece, width in zip(texts, widths, strict=True):
        began = start_s + position * second_per_column
        position += width
        timed.append(TimedText(piece, began, start_s + position * second_per_column))
    return timed


def split_text(text: str) -> list[str]:
    """Return the pieces that no line break may part; each keeps the blanks before it."""
    pieces: list[str] = []
    for word in re.findall(r"\s*\S+", text):
        piece = ""
        for character in word:
            if piece.strip() and _may_break(piece[-1], character):
                pieces.append(piece)
                piece = ""
            piece += character
        pieces.append(piece)
    return pieces


def _may_break(before: str, after: str) -> bool:
    return after not in _CLOSING and _WIDE in (wcwidth(before), wcwidth(after))


@lru_cache(maxsize=4096)
def columns(text: str) -> int:
    """Return the columns that a text takes; words come again, so what is known is kept."""
    return sum(max(0, wcwidth(character)) for character in text)


def lay_out(segments: Iterable[Sequence[TimedText]], layout: CueLayout) -> list[Cue]:
    """Return the cues of all segments: they start one after the other and never overlap.

    Every character but blanks is in one of them, in its order.
    """
    loose: list[Cue] = []
    for pieces in segments:
        for group in _groups(_narrow(pieces, layout.max_line_width), layout):
            lines = _balanced(group, layout.max_line_width)
            loose.append(Cue(_ms(group[0].start_s), _ms(group[-1].end_s), tuple(lines)))
    return list(_without_overlap(loose))


def _narrow(pieces: Sequence[TimedText], width: int) -> list[TimedText]:
    """Return the pieces; one that is wider than a line in parts, each with a share of its time.

    NUL, which WebVTT has not, becomes the replacement character here, before anything is measured.
    """
    narrow: list[TimedText] = []
    for piece in pieces:
        parts = [""]
        for character in piece.text.replace("\0", "\ufffd"):
            if columns((parts[-1] + character).strip()) > width and parts[-1].strip():
                parts.append("")
            parts[-1] += character
        share = (piece.end_s - piece.start_s) / len(parts)
        narrow += [
            TimedText(part, piece.start_s + place * share, piece.start_s + (place + 1) * share)
            for place, part in enumerate(parts)
            if part.strip()
        ]
    return narrow


def _groups(pieces: list[TimedText], layout: CueLayout) -> Iterator[list[TimedText]]:
    while pieces:
        end = _cue_end(pieces, layout)
        yield pieces[:end]
        pieces = pieces[end:]


def _cue_end(pieces: list[TimedText], layout: CueLayout) -> int:
    """Return how many pieces the first cue takes: as many as fit, or up to a good place before."""
    fitting = 1
    while fitting < len(pieces):
        if pieces[fitting].start_s - pieces[fitting - 1].end_s > layout.max_gap_seconds:
            return fitting
        longer = pieces[: fitting + 1]
        too_long = longer[-1].end_s - longer[0].start_s > layout.max_cue_seconds
        if too_long or len(_wrapped(longer, layout.max_line_width)) > layout.max_line_count:
            return _good_end(pieces, fitting)
        fitting += 1
    return fitting


def _good_end(pieces: list[TimedText], fitting: int) -> int:
    """Return the last end of a sentence, or else of a clause, in the second half of what fits."""
    for marks in (_SENTENCE_END, _CLAUSE_END):
        for end in range(fitting, fitting // 2, -1):
            if pieces[end - 1].text.endswith(marks):
                return end
    return fitting


def _wrapped(pieces: Iterable[TimedText], width: int) -> list[list[TimedText]]:
    """Return the lines, each as full as it can be."""
    lines: list[list[TimedText]] = []
    taken = width
    for piece in pieces:
        needed = columns(piece.text.strip())
        blank = piece.text[:1].isspace()
        if lines and taken + blank + needed <= width:
            taken += blank + needed
            lines[-1].append(piece)
        else:
            taken = needed
            lines.append([piece])
    return lines


def _balanced(pieces: list[TimedText], width: int) -> list[str]:
    """Return as many lines as the width needs, as even as they can be."""
    lines = _wrapped(pieces, width)
    widest = max(columns(piece.text.strip()) for piece in pieces)
    while width > widest and len(narrower := _wrapped(pieces, width - 1)) == len(lines):
        lines, width = narrower, width - 1
    return [_line(line) for line in lines]


def _line(pieces: Iterable[TimedText]) -> str:
    text = "".join(piece.text for piece in pieces)
    return " ".join(text.split())


def _ms(seconds: float) -> int:
    return round(1000 * seconds)


def _without_overlap(cues: list[Cue]) -> Iterator[Cue]:
    """Yield the cues, moved and cut so that they start in order and end before the next one."""
    starts: list[int] = []
    for cue in cues:
        starts.append(max(cue.start_ms, starts[-1] + 1 if starts else 0))
    for place, (start_ms, cue) in enumerate(zip(starts, cues, strict=True)):
        end_ms = max(cue.end_ms, start_ms + _MIN_CUE_MS)
        if place + 1 < len(starts):
            end_ms = min(end_ms, starts[place + 1])
        yield Cue(start_ms, end_ms, cue.lines)


def srt(cues: Iterable[Cue]) -> str:
    """Return the cues as SubRip. The format has no escapes: `-->` in a text becomes `->`."""
    return "".join(
        f"{number}\n{_clock(cue.start_ms, ',')} --> {_clock(cue.end_ms, ',')}\n"
        + "".join(f"{line.replace('-->', '->')}\n" for line in cue.lines)
        + "\n"
        for number, cue in enumerate(cues, start=1)
    )


def vtt(cues: Iterable[Cue]) -> str:
    """Return the cues as WebVTT."""
    return "WEBVTT\n\n" + "".join(
        f"{_clock(cue.start_ms, '.')} --> {_clock(cue.end_ms, '.')}\n"
        + "".join(f"{_escaped(line)}\n" for line in cue.lines)
        + "\n"
        for cue in cues
    )


def _escaped(line: str) -> str:
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _clock(ms: int, point: str) -> str:
    """Return hours, minutes, seconds and milliseconds; the hours may have more than two digits."""
    seconds, ms = divmod(ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{point}{ms:03}"
