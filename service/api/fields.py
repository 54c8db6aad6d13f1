"""The types of a request's options, from the text that they come as. Knows nothing about audio."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, WithJsonSchema

MAX_PROMPT = 4000
"""Characters of a prompt."""


def _items(value: object) -> object:
    """Split at commas; what is empty is no item. A list may be sent in several fields too."""
    if not isinstance(value, list):
        return value
    parts = [part.strip() for item in value for part in str(item).split(",")]
    return [part for part in parts if part] or ([""] if value else [])


def _or_none(value: object) -> object:
    """Take `none` for None."""
    return None if isinstance(value, str) and value.strip().lower() == "none" else value


def _listed(description: str, example: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "description": description, "examples": [example]})


Temperature = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Temperatures = Annotated[
    tuple[Temperature, ...],
    BeforeValidator(_items),
    Field(max_length=10),
    _listed(
        "0 takes the most likely token each time; several, rising and with commas, are tried in"
        " turn, each for a window that failed at the one before",
        "0,0.2,0.4,0.6,0.8,1",
    ),
]
Codes = Annotated[
    tuple[str, ...],
    BeforeValidator(_items),
    Field(max_length=100),
    _listed("the languages that may be spoken, with commas; one of them is detected", "en,de"),
]
Times = Annotated[
    tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...],
    BeforeValidator(_items),
    _listed(
        "seconds: start,end,start,end ... of what is transcribed; the last end may be left out",
        "0,12.5,60",
    ),
]
Threshold = Annotated[
    Annotated[float, Field(allow_inf_nan=False)] | None,
    BeforeValidator(_or_none),
    WithJsonSchema({"type": ["number", "string"], "description": "a number, or `none`"}),
]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Text = Annotated[str, Field(max_length=MAX_PROMPT)]
Marks = Annotated[str, Field(max_length=100)]
