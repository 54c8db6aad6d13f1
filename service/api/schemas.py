"""The options of a request, as they come over the wire. Knows nothing about how they are carried.

openai/whisper's names. An option that is not known is refused by its name, so that nobody believes
that it did something.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.errors import InvalidRequest
from service.transcription.params import TranscriptionParams

MAX_SHOWN = 80
"""Characters of a wrong value that an error repeats."""

UNKNOWN = "unknown_parameter"
"""The code of an option that does not exist."""


class DecodingOptions(BaseModel):
    """How to decode, on every route."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    language: str | None = Field(
        None, description="code, English name or alias; by default it is detected"
    )
    temperature: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = Field(
        0.0, description="0 takes the most likely token each time"
    )
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = Field(
        0, description="of the sampling, where the temperature is not 0"
    )
    without_timestamps: bool = Field(False, description="decode text only, without segment times")
    initial_prompt: Annotated[str, Field(max_length=4000)] | None = Field(
        None, description="text that might have come before: names, spelling, style"
    )

    def decoding(self, task: str) -> TranscriptionParams:
        """Return what the transcription needs of it."""
        return TranscriptionParams(
            language=self.language,
            task=task,
            temperature=self.temperature,
            seed=self.seed,
            without_timestamps=self.without_timestamps,
            initial_prompt=self.initial_prompt,
        )


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
