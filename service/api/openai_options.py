"""The options of OpenAI's audio routes, and ours that they take beside them.

Knows nothing about how they are carried out. Whatever cannot be done is refused by its name: an
option that is dropped in silence is believed to have done something.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Annotated, Literal, TypeVar

from pydantic import BeforeValidator, Field

from service.api.chunking_strategy import Strategy, with_parts_as_json
from service.api.schemas import DecodingOptions, parse
from service.audio.vad import SpeechBounds
from service.errors import InvalidRequest
from service.transcription.params import LADDER, Chunking, TranscriptionParams, Vad
from service.transcription.render import Format
from service.transcription.subtitles import CueLayout

ALIASES = {"prompt": "initial_prompt"}
"""OpenAI's name -> the option that it stands for."""
KEYWORDS = frozenset({"keywords", "keywords[]"})
JSON_FORMATS = frozenset({Format.JSON, Format.VERBOSE_JSON})
STREAMED_FORMATS = frozenset({Format.JSON, Format.TEXT, Format.VERBOSE_JSON})
CUE_FORMATS = frozenset({Format.SRT, Format.VTT})
CUE_OPTIONS = ("max_line_width", "max_line_count", "max_cue_seconds", "max_gap_seconds")
_LAYOUT = CueLayout()
_NOT_POSSIBLE = {
    "known_speaker_names": "speakers are not told apart",
    "known_speaker_references": "speakers are not told apart",
}
"""Fields of OpenAI's that cannot be honoured."""


def _is_format(value: object) -> object:
    if value == "diarized_json":
        raise ValueError("speakers are not told apart here, so there is no diarized_json")
    return value


class OpenAIOptions(DecodingOptions):
    """The fields of both routes, beside the file."""

    model: str = Field(description="the served model's id, or `whisper-1`; anything else is a 404")
    response_format: Annotated[Format, BeforeValidator(_is_format)] = Field(
        Format.JSON, description="`json`, `text`, `srt`, `vtt`, `verbose_json` or `tsv`"
    )
    timestamp_granularities: tuple[Literal["word", "segment"], ...] = Field(
        (), description="what `verbose_json` lists beside the text; segments by default"
    )
    include: tuple[Literal["logprobs"], ...] = Field(
        (), description="`logprobs` adds the log-probability of each token, with `json` only"
    )
    chunking_strategy: Strategy | None = Field(None)
    stream: bool = Field(False, description="answer with server-sent events")
    fallback: bool | None = Field(
        None,
        description="hear a window again at a higher temperature where it was not heard well;"
        " by default only where nothing is streamed",
    )
    max_line_width: Annotated[int, Field(ge=2, le=1000)] = Field(
        _LAYOUT.max_line_width, description="columns of a subtitle's line"
    )
    max_line_count: Annotated[int, Field(ge=1, le=100)] = Field(
        _LAYOUT.max_line_count, description="lines of a subtitle"
    )
    max_cue_seconds: Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)] = Field(
        _LAYOUT.max_cue_seconds, description="how long a subtitle stays"
    )
    max_gap_seconds: Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)] = Field(
        _LAYOUT.max_gap_seconds, description="a longer pause between words begins a new subtitle"
    )

    def params(self, task: str = "transcribe") -> TranscriptionParams:
        """Return how to transcribe."""
        strategy = self.chunking_strategy
        return replace(
            self.decoding(task),
            temperature=self.temperatures,
            vad=self.voice_activity,
            word_timestamps=self.word_timestamps or "word" in self.timestamp_granularities,
            speech_bounds=SpeechBounds() if strategy is None else strategy.bounds,
        )

    @property
    def voice_activity(self) -> Vad:
        """Whether voice activity is detected: by default not where text is told as it comes."""
        if self.chunking_strategy is not None:
            return Vad.ON
        asked = "vad" in self.model_fields_set or not self.stream or self.fallback
        return self.vad if asked or self.chunking is Chunking.PARALLEL else Vad.OFF

    @property
    def temperatures(self) -> tuple[float, ...]:
        """The temperatures to try, in turn: those over the first one are for a fallback.

        OpenAI's 0 alone stands for all of them.
        """
        wanted = not self.stream if self.fallback is None else self.fallback
        lowest = self.temperature[0]
        if not wanted:
            return (lowest,)
        if len(self.temperature) == 1 and (self.fallback or lowest == 0):
            return (lowest, *(t for t in LADDER if t > lowest))
        return self.temperature

    @property
    def layout(self) -> CueLayout:
        """How subtitles are laid out."""
        return CueLayout(
            self.max_line_width, self.max_line_count, self.max_cue_seconds, self.max_gap_seconds
        )

    @property
    def granularities(self) -> tuple[str, ...]:
        """What `verbose_json` lists: segments, unless it was asked for something else."""
        if self.timestamp_granularities:
            return self.timestamp_granularities
        return ("word", "segment") if self.word_timestamps else ("segment",)


class TranslationOptions(OpenAIOptions):
    """The same, for a route whose task is another one."""

    def params(self, task: str = "translate") -> TranscriptionParams:
        """Return how to translate."""
        return super().params(task)


Kind = TypeVar("Kind", bound=OpenAIOptions)
Parser = Callable[[Iterable[tuple[str, str]]], OpenAIOptions]


def parse_transcription(pairs: Iterable[tuple[str, str]]) -> OpenAIOptions:
    """Return the options of `/v1/audio/transcriptions`.

    Raises:
        InvalidRequest: for one that is not known, not possible, or contradicts another.
    """
    return _checked(OpenAIOptions, pairs)


def parse_translation(pairs: Iterable[tuple[str, str]]) -> TranslationOptions:
    """Return the options of `/v1/audio/translations`.

    Raises:
        InvalidRequest: as `parse_transcription`.
    """
    return _checked(TranslationOptions, pairs)


def _checked(kind: type[Kind], pairs: Iterable[tuple[str, str]]) -> Kind:
    pairs = list(pairs)
    for given, _ in pairs:
        name = given.partition("[")[0]
        if name in _NOT_POSSIBLE:
            raise InvalidRequest(f"{name}: {_NOT_POSSIBLE[name]}", param=name)
    options = parse(kind, with_parts_as_json(_with_keywords_as_one(pairs)), ALIASES)
    _check_format(options)
    return options


def _with_keywords_as_one(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the pairs with OpenAI's list of keywords as the text that ours is."""
    keywords = [value for name, value in pairs if name in KEYWORDS]
    others = [pair for pair in pairs if pair[0] not in KEYWORDS]
    return [*others, ("keywords", ", ".join(keywords))] if keywords else others


def _check_format(options: OpenAIOptions) -> None:
    """Refuse options that would do nothing in the format that was asked for."""
    form = options.response_format
    if options.stream and form not in STREAMED_FORMATS:
        raise InvalidRequest(
            f"response_format {form} cannot be streamed: ask for json, or for stream=false",
            param="response_format",
        )
    if options.timestamp_granularities and form is not Format.VERBOSE_JSON:
        raise InvalidRequest(
            "response_format must be verbose_json if timestamp_granularities[] is provided,"
            f" found {str(form)!r}",
            param="timestamp_granularities",
        )
    if "word" in options.timestamp_granularities and options.without_timestamps:
        raise InvalidRequest(
            "timestamp_granularities: words are placed by their segments, and without_timestamps"
            " has none",
            param="timestamp_granularities",
        )
    if options.include and form is not Format.JSON:
        raise InvalidRequest(
            f"response_format must be json if include[] is provided, found {str(form)!r}",
            param="include",
        )
    if options.chunking_strategy is not None and "vad" in options.model_fields_set:
        raise InvalidRequest(
            "vad and chunking_strategy say the same thing: give one of them", param="vad"
        )
    for name in CUE_OPTIONS:
        if name in options.model_fields_set and form not in CUE_FORMATS:
            raise InvalidRequest(
                f"{name} is for response_format srt and vtt, found {str(form)!r}", param=name
            )
