"""The options of a request, as they come over the wire. Knows nothing about how they are carried.

openai/whisper's names. An option that is not known is refused by its name, so that nobody believes
that it did something.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.api.fields import Codes, Marks, Seconds, Temperatures, Text, Threshold, Times
from service.decoding.words import APPENDED, PREPENDED
from service.errors import InvalidRequest
from service.transcription.params import LADDER, Chunking, TranscriptionParams, Vad

MAX_SHOWN = 80
"""Characters of a wrong value that an error repeats."""

UNKNOWN = "unknown_parameter"
"""The code of an option that does not exist."""


class DecodingOptions(BaseModel):
    """How to decode, on every route; what is not given is as openai/whisper has it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    language: str | None = Field(
        None, description="code, English name or alias; by default it is detected"
    )
    languages: Codes = ()
    detect_language_per_window: bool = Field(
        False, description="detect the language of each window anew: for speech that changes it"
    )
    temperature: Temperatures = LADDER
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = Field(
        0, description="of the sampling, where the temperature is not 0"
    )
    compression_ratio_threshold: Threshold = Field(
        2.4, description="a text that zlib shortens by more has failed, or `none`"
    )
    logprob_threshold: Threshold = Field(
        -1.0, description="a mean log-probability under this has failed, or `none`"
    )
    no_speech_threshold: Threshold = Field(
        0.6, description="a text that has failed is silence from this probability on, or `none`"
    )
    beam_size: int | None = Field(None, description="hypotheses of a beam search, temperature 0")
    patience: float | None = Field(None, description="how long a beam search goes on, 1 by default")
    best_of: int | None = Field(None, description="candidates at a temperature over 0")
    length_penalty: float | None = Field(None, description="0 to 1, to rank hypotheses by length")
    word_timestamps: bool = Field(False, description="tell the time of each word too")
    prepend_punctuations: Marks = Field(PREPENDED, description="marks joined to the next word")
    append_punctuations: Marks = Field(APPENDED, description="marks joined to the word before")
    hallucination_silence_threshold: Seconds | None = Field(
        None, description="seconds of silence around words that seem made up: those are skipped"
    )
    without_timestamps: bool = Field(False, description="decode text only, without segment times")
    initial_prompt: Text | None = Field(
        None, description="text that might have come before: names, spelling, style"
    )
    carry_initial_prompt: bool = Field(
        False, description="tell the initial prompt to every window, not the first only"
    )
    hotwords: Text | None = Field(None, description="words to expect, told to every window")
    keywords: Text | None = Field(None, description="the same as `hotwords`")
    condition_on_previous_text: bool | None = Field(
        None, description="tell each window the text before it; by default yes"
    )
    clip_timestamps: Times = ()
    vad: Vad = Field(
        Vad.AUTO,
        description="detect voice activity: `off`, `on` (windows of silence are not decoded), or"
        " `auto` (where a decoding gives reason to doubt it)",
    )
    chunking: Chunking = Field(
        Chunking.SEQUENTIAL,
        description="`sequential`: each window begins where the text of the one before it ends, and"
        " knows it; `parallel`: cut at pauses and decode several windows side by side",
    )

    def decoding(self, task: str) -> TranscriptionParams:
        """Return what the transcription needs of it.

        Raises:
            InvalidRequest: if two options say the same thing.
        """
        given: dict[str, Any] = {
            name: getattr(self, name)
            for name in DecodingOptions.model_fields.keys() - {"keywords"}
            if name in self.model_fields_set
        }
        if self.keywords is not None:
            if self.hotwords is not None:
                raise InvalidRequest(
                    "keywords and hotwords are the same thing: give one of them", param="keywords"
                )
            given["hotwords"] = self.keywords
        return TranscriptionParams(task=task, **given)


class TranscribeOptions(DecodingOptions):
    """The options of `POST /transcribe`."""

    model: str | None = Field(None, description="the served model's id; anything else is a 404")
    task: Literal["transcribe", "translate"] = Field(
        "transcribe", description="`translate` gives English"
    )
    stream: bool = Field(True, description="server-sent events; false for one JSON object")

    def params(self) -> TranscriptionParams:
        """Return how to transcribe."""
        return self.decoding(self.task)


class DetectOptions(BaseModel):
    """The options of `POST /detect-language`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = Field(None, description="the served model's id; anything else is a 404")
    languages: Codes = ()

    @property
    def stream(self) -> bool:
        """There is one answer and no stream."""
        return False

    def params(self) -> TranscriptionParams:
        """Return what is to be detected."""
        return TranscriptionParams(languages=self.languages)


Model = TypeVar("Model", bound=BaseModel)


def parse_options(pairs: Iterable[tuple[str, str]]) -> TranscribeOptions:
    """Return the options of `POST /transcribe` in names and values.

    Raises:
        InvalidRequest: as `parse`.
    """
    return parse(TranscribeOptions, pairs)


def parse(
    model: type[Model],
    pairs: Iterable[tuple[str, str]],
    aliases: Mapping[str, str] | None = None,
) -> Model:
    """Return the options in names and values. A list may come as `name` and as `name[]`.

    Args:
        model: what the options are.
        pairs: names and values, in order.
        aliases: other names of options -> their own.

    Raises:
        InvalidRequest: for a name that is not known or comes twice without being a list, and for a
            value that is not possible; it names the field as it was sent, the limit and the value.
    """
    values: dict[str, Any] = {}
    sent_as: dict[str, str] = {}
    for given, value in pairs:
        bare = given.removesuffix("[]")
        name = (aliases or {}).get(bare, bare)
        if _is_list(model, name):
            values.setdefault(name, []).append(value)
        elif name in values:
            shown = given[:MAX_SHOWN]
            raise InvalidRequest(f"{shown} is given more than once", param=shown)
        else:
            name = name if bare == given else given
            values[name] = value
        sent_as[name] = bare if _is_list(model, name) else given
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _refusal(model, error, sent_as) from None


def _is_list(model: type[BaseModel], name: str) -> bool:
    field = model.model_fields.get(name)
    return field is not None and get_origin(field.annotation) in (list, tuple)


def _refusal(
    model: type[BaseModel], error: ValidationError, sent_as: Mapping[str, str]
) -> InvalidRequest:
    first = error.errors(include_url=False)[0]
    field = str(first["loc"][0])
    name = sent_as.get(field, field)[:MAX_SHOWN]
    inner = next((str(part) for part in first["loc"][1:] if isinstance(part, str)), None)
    if inner is not None:
        message = str(first["msg"])
        return InvalidRequest(
            f"{name}: {inner[:MAX_SHOWN]}: {message[:1].lower()}{message[1:]}", param=name
        )
    if first["type"] == "extra_forbidden":
        known = ", ".join(model.model_fields)
        return InvalidRequest(
            f"{name} is not an option, possible are: {known}", param=name, code=UNKNOWN
        )
    if first["type"] == "missing":
        return InvalidRequest(f"{name} is missing", param=name, code="missing_required_parameter")
    message = str(first["msg"]).removeprefix("Value error, ")
    shown = str(first["input"])[:MAX_SHOWN]
    return InvalidRequest(
        f"{name}: {message[:1].lower()}{message[1:]}, found {shown!r}", param=name
    )
