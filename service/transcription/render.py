"""One transcript in every format. Pure: knows nothing about HTTP, engines or how it was made.

The JSON objects are OpenAI's: `json` and `verbose_json` as its API answers them.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from service.text.languages import LANGUAGES
from service.transcription import subtitles
from service.transcription.subtitles import CueLayout, TimedText, estimate_times

if TYPE_CHECKING:
    from service.transcription.events import Done, Json, SegmentEvent

UNKNOWN = "unknown"
"""The language where nobody spoke: OpenAI's clients want a name in any case."""


class Format(StrEnum):
    """How a transcript can be written."""

    JSON = "json"
    TEXT = "text"
    SRT = "srt"
    VERBOSE_JSON = "verbose_json"
    VTT = "vtt"
    TSV = "tsv"


def render_text(done: Done, form: Format, layout: CueLayout) -> str:
    """Return the transcript in one of the formats that are plain text.

    Raises:
        ValueError: for a format that is a JSON object.
    """
    match form:
        case Format.TEXT:
            return done.text + "\n"
        case Format.TSV:
            return _tsv(done.segments)
        case Format.SRT:
            return subtitles.srt(subtitles.lay_out(_timed(done), layout))
        case Format.VTT:
            return subtitles.vtt(subtitles.lay_out(_timed(done), layout))
        case _:
            raise ValueError(f"{form} is no text")


def verbose(done: Done, task: str, granularities: Iterable[str] = ("segment",)) -> Json:
    """Return OpenAI's `verbose_json` object.

    Args:
        done: the transcript.
        task: "transcribe" or "translate": the language of a translation is English.
        granularities: "segment" and "word", or one of them: what is there beside the text.
    """
    language = "en" if task == "translate" else done.language
    data: Json = {
        "task": task,
        "language": UNKNOWN if language is None else LANGUAGES.get(language, language),
        "duration": done.duration_s,
        "text": done.text,
    }
    if "segment" in granularities:
        data["segments"] = [openai_segment(segment) for segment in done.segments]
    if "word" in granularities:
        data["words"] = [
            {"word": word.word.strip(), "start": word.start_s, "end": word.end_s}
            for segment in done.segments
            for word in segment.words or ()
        ]
    return data | {"usage": duration_usage(done)}


def duration_usage(done: Done) -> Json:
    """Return OpenAI's usage object of a model that is paid by the second."""
    return {"type": "duration", "seconds": done.duration_s}


def openai_segment(segment: SegmentEvent) -> Json:
    """Return the ten fields of a segment as OpenAI has them; `seek` counts 10 ms."""
    return {
        "id": segment.id,
        "seek": segment.seek,
        "start": segment.start_s,
        "end": segment.end_s,
        "text": segment.text,
        "tokens": list(segment.tokens),
        "temperature": segment.temperature,
        "avg_logprob": segment.avg_logprob,
        "compression_ratio": segment.compression_ratio,
        "no_speech_prob": segment.no_speech_prob or 0.0,
    }


def logprob(text: str, data: bytes, value: float) -> dict[str, Any]:
    """Return OpenAI's log-probability of one token."""
    return {"token": text, "bytes": list(data), "logprob": value}


def _timed(done: Done) -> list[list[TimedText]]:
    """Return the pieces of each segment: its words, or what is estimated where it has none."""
    return [
        [TimedText(word.word, word.start_s, word.end_s) for word in segment.words]
        if segment.words
        else estimate_times(segment.text, segment.start_s, segment.end_s)
        for segment in done.segments
    ]


def _tsv(segments: Iterable[SegmentEvent]) -> str:
    """Return openai/whisper's table: start and end in milliseconds, and the text."""
    rows = [
        f"{round(1000 * segment.start_s)}\t{round(1000 * segment.end_s)}\t"
        f"{' '.join(segment.text.split())}\n"
        for segment in segments
    ]
    return "start\tend\ttext\n" + "".join(rows)
