"""The options of a request, as they come over the wire. Knows nothing about how they are carried.

openai/whisper's names. An option that is not known is refused by its name, so that nobody believes
that it did something.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.errors import InvalidRequest
from service.transcription.params import TranscriptionParams

MAX_SHOWN = 80
"""Characters of a wrong value that an error repeats."""


class TranscribeOptions(BaseModel):
    """The options of `POST /transcribe`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = Field(None, description="the served model's id; anything else is a 404")
    language: str | None = Field(
        None, description="code, English name or alias; by default it is detected"
    )
    task: Literal["transcribe", "translate"] = Field(
        "transcribe", description="`translate` gives English"
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
    stream: bool = Field(True, description="server-sent events; false for one JSON object")

    def params(self) -> TranscriptionParams:
        """Return what the transcription needs of it."""
        return TranscriptionParams(
            language=self.language,
            task=self.task,
            temperature=self.temperature,
            seed=self.seed,
            without_timestamps=self.without_timestamps,
            initial_prompt=self.initial_prompt,
        )


def parse_options(pairs: Iterable[tuple[str, str]]) -> TranscribeOptions:
    """Return the options in names and values.

    Raises:
        InvalidRequest: for a name that is not known or comes twice, and for a value that is not
            possible; it names the field, the limit and the value.
    """
    values: dict[str, str] = {}
    for name, value in pairs:
        if name in values:
            shown = name[:MAX_SHOWN]
            raise InvalidRequest(f"{shown} is given more than once", param=shown)
        values[name] = value
    try:
        return TranscribeOptions.model_validate(values)
    except ValidationError as error:
        raise _refusal(error) from None


def _refusal(error: ValidationError) -> InvalidRequest:
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0])[:MAX_SHOWN]
    if first["type"] == "extra_forbidden":
        known = ", ".join(TranscribeOptions.model_fields)
        return InvalidRequest(
            f"{name} is not an option, possible are: {known}", param=name, code="unknown_parameter"
        )
    message = str(first["msg"])
    shown = str(first["input"])[:MAX_SHOWN]
    return InvalidRequest(
        f"{name}: {message[:1].lower()}{message[1:]}, found {shown!r}", param=name
    )
