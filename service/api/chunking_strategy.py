"""OpenAI's `chunking_strategy`: `auto`, or an object, as parts of a form or as JSON.

Knows nothing about how speech is found. What it asks for is that recordings be cut by the speech in
them: windows begin where somebody speaks, and silence is not decoded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from service.audio.vad import SpeechBounds
from service.errors import InvalidRequest

NAME = "chunking_strategy"
_PART = re.compile(rf"{NAME}\[(\w{{1,40}})\]")
_DEFAULT = SpeechBounds()


class ServerVad(BaseModel):
    """How speech is told from silence; `auto` leaves all of it to the service."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["auto", "server_vad"]
    threshold: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] = _DEFAULT.threshold
    prefix_padding_ms: Annotated[int, Field(ge=0, le=10_000)] = round(1000 * _DEFAULT.pad_s)
    silence_duration_ms: Annotated[int, Field(ge=0, le=60_000)] = round(1000 * _DEFAULT.pause_s)

    @property
    def bounds(self) -> SpeechBounds:
        """The same in our words."""
        return SpeechBounds(
            self.threshold, self.prefix_padding_ms / 1000, self.silence_duration_ms / 1000
        )


def _read(value: object) -> object:
    if value == "auto":
        return {"type": "auto"}
    try:
        read = json.loads(str(value))
    except (ValueError, RecursionError):
        read = None
    if not isinstance(read, dict):
        raise ValueError("it has to be auto, or an object with the type server_vad")
    return read


Strategy = Annotated[
    ServerVad,
    BeforeValidator(_read),
    WithJsonSchema(
        {
            "type": "string",
            "description": "cut the recording by the speech in it: `auto`, or as JSON"
            ' `{"type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 100,'
            ' "silence_duration_ms": 300}`; its fields may be parts as well, such as'
            " `chunking_strategy[type]`",
            "examples": ["auto"],
        }
    ),
]


def with_parts_as_json(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the pairs, with the parts of a strategy put together into one.

    Raises:
        InvalidRequest: if a part comes twice.
    """
    parts: dict[str, str] = {}
    others = []
    for name, value in pairs:
        part = _PART.fullmatch(name)
        if part is None:
            others.append((name, value))
        elif part[1] in parts:
            raise InvalidRequest(f"{name} is given more than once", param=NAME)
        else:
            parts[part[1]] = value
    return [*others, (NAME, json.dumps(parts))] if parts else others
