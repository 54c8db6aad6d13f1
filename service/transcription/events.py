"""What a transcription tells its listener, as plain values and as the JSON that goes over the wire.

Knows nothing about HTTP, server-sent events or engines. `docs/api.md` describes each event.

`TokenEvent.index` counts all sampled tokens of a transcription and is never used twice. After
`Retract(from_index=n)` every token with an index of n or more is void: the text of the others,
joined and stripped, is `Done.text`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, ClassVar, TypeAlias

Json: TypeAlias = dict[str, Any]


class RetractReason(StrEnum):
    """Why tokens that were streamed are void."""

    SEEK = "seek"
    """The next window begins before their end and hears them again, or skips what seems made up."""
    FALLBACK = "fallback"
    """The decoding was not good enough; the next attempt at the window follows."""
    NO_SPEECH = "no_speech"
    """There is no speech in the window."""
    COVERAGE = "coverage"
    """Speech follows the text that stands, and is decoded again from there."""


@dataclass(frozen=True, slots=True)
class Started:
    """The audio is decoded and its transcription begins."""

    type: ClassVar[str] = "started"

    id: str
    model: str
    duration_s: float

    def to_dict(self) -> Json:
        """Return the JSON object of the event."""
        return {"type": self.type} | asdict(self)


@dataclass(frozen=True, slots=True)
class LanguageDetected:
    """The language was not given, and this is what a window is spoken in.

    Attributes:
        language: its code.
        probability: among the languages that were possible.
        window: in which it was detected: the first, or each if that was asked for.
    """

    type: ClassVar[str] = "language"

    language: str
    probability: float
    window: int = 0

    def to_dict(self) -> Json:
        """Return the JSON object of the event."""
        return {"type": self.type} | asdict(self)


@dataclass(frozen=True, slots=True)
class TokenEvent:
    """One sampled token, end-of-text excepted.

    Attributes:
        index: its number among all sampled tokens of the transcription.
        window: the window that it was decoded in.
        attempt: 0 for the first decoding of the window.
        token_id: its id in the model's vocabulary.
        text: what it adds to the text; empty for timestamps and for a part of a character.
        logprob: its log-probability.
        timestamp_s: for a timestamp token, the second of the recording that it names.
        no_speech_prob: of its window, at the window's first token; not told to clients.
    """

    type: ClassVar[str] = "token"

    index: int
    window: int
    attempt: int
    token_id: int
    text: str
    logprob: float
    timestamp_s: float | None = None
    no_speech_prob: float | None = None

    def to_dict(self) -> Json:
        """Return the JSON object of the event; only a timestamp token has `timestamp_s`."""
        data: Json = {
            "type": self.type,
            "index": self.index,
            "window": self.window,
            "attempt": self.attempt,
            "token_id": self.token_id,
            "text": self.text,
            "logprob": self.logprob,
        }
        if self.timestamp_s is not None:
            data["timestamp_s"] = self.timestamp_s
        return data


@dataclass(frozen=True, slots=True)
class Retract:
    """Tokens from `from_index` on, all of this window, are void."""

    type: ClassVar[str] = "retract"

    window: int
    from_index: int
    reason: RetractReason

    def to_dict(self) -> Json:
        """Return the JSON object of the event."""
        return {"type": self.type} | asdict(self)


@dataclass(frozen=True, slots=True)
class WordTime:
    """A word and when it is spoken.

    Attributes:
        word: with the blank before it and its punctuation.
        start_s, end_s: seconds in the recording.
        probability: mean of its tokens'.
    """

    word: str
    start_s: float
    end_s: float
    probability: float


@dataclass(frozen=True, slots=True)
class SegmentEvent:
    """A stretch of text with its times, final.

    Attributes:
        id: 0, 1, 2 ... in the transcription.
        window: the window that it was decoded in.
        seek: where that window starts, in frames of 10 ms.
        start_s, end_s: seconds in the recording, cut where its window's audio ends.
        text: with the blank that it begins with, if it has one.
        tokens: its token ids, timestamps included.
        temperature: at which its window was decoded.
        avg_logprob: of its window's tokens, end-of-text included.
        compression_ratio: of its window's text; one that repeats itself has a high one.
        no_speech_prob: of its window; None if the model has no token for it.
        attempts: decodings that its window took.
        language: of its window; None if the model has none.
        words: None if they were not asked for.
    """

    type: ClassVar[str] = "segment"

    id: int
    window: int
    seek: int
    start_s: float
    end_s: float
    text: str
    tokens: tuple[int, ...]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float | None
    attempts: int = 1
    language: str | None = None
    words: tuple[WordTime, ...] | None = None

    def to_dict(self) -> Json:
        """Return the JSON object of the event; it has `words` only where they were asked for."""
        data = {"type": self.type} | asdict(self)
        if self.words is None:
            del data["words"]
        return data


@dataclass(frozen=True, slots=True)
class Usage:
    """What a transcription cost, in the units of the model.

    Attributes:
        audio_tokens: encoder positions (20 ms each) of audio, in all windows.
        prompt_tokens: decoder tokens given, in all windows.
        output_tokens: decoder tokens sampled, end-of-text and retracted ones included.
    """

    audio_tokens: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0

    def to_dict(self) -> Json:
        """Return OpenAI's token usage object."""
        input_tokens = self.audio_tokens + self.prompt_tokens
        return {
            "type": "tokens",
            "input_tokens": input_tokens,
            "input_token_details": {
                "audio_tokens": self.audio_tokens,
                "text_tokens": self.prompt_tokens,
            },
            "output_tokens": self.output_tokens,
            "total_tokens": input_tokens + self.output_tokens,
        }


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time went.

    Attributes:
        queue_ms: from the first window's arrival at the engine to the step of its first token.
        first_token_ms: from the arrival of the request to its first token; None without tokens.
        total_ms: from the arrival of the request to the end.
        realtime_factor: seconds of audio a second of `total_ms`.
    """

    queue_ms: float
    first_token_ms: float | None
    total_ms: float
    realtime_factor: float

    def to_dict(self) -> Json:
        """Return the JSON object, in tenths of a millisecond."""
        first = self.first_token_ms
        return {
            "queue_ms": round(self.queue_ms, 1),
            "first_token_ms": None if first is None else round(first, 1),
            "total_ms": round(self.total_ms, 1),
            "realtime_factor": round(self.realtime_factor, 2),
        }


@dataclass(frozen=True, slots=True)
class Done:
    """The whole transcript; the last event, and the answer where nothing is streamed.

    Attributes:
        language_probability: of the language that was detected first; None if it was given.
        coverage: which part of the speech that was detected has text; None if none was listened
            for.
        uncovered: start and end in seconds of the speech that has none.
    """

    type: ClassVar[str] = "done"

    id: str
    model: str
    text: str
    language: str | None
    duration_s: float
    segments: tuple[SegmentEvent, ...]
    usage: Usage
    timings: Timings
    language_probability: float | None = None
    coverage: float | None = None
    uncovered: tuple[tuple[float, float], ...] = ()

    def to_dict(self) -> Json:
        """Return the JSON object of the event."""
        return {
            "type": self.type,
            "id": self.id,
            "model": self.model,
            "text": self.text,
            "language": self.language,
            "language_probability": self.language_probability,
            "duration_s": self.duration_s,
            "segments": [segment.to_dict() for segment in self.segments],
            "coverage": self.coverage,
            "uncovered": [list(span) for span in self.uncovered],
            "usage": self.usage.to_dict(),
            "timings": self.timings.to_dict(),
        }


Event: TypeAlias = Started | LanguageDetected | TokenEvent | Retract | SegmentEvent | Done
"""An error is not among them: it is raised, and the API makes the last event of it."""
