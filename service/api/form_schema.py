"""JSON schemas of forms, from the models that read them, and of events. Text and data only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

Schema = dict[str, Any]


def form_properties(
    model: type[BaseModel], names: Mapping[str, str] | None = None
) -> dict[str, Schema]:
    """Return the schema of each field of a form.

    A field that may be left out is not null on the wire, and a list is called `name[]`. Defaults
    stand in the description: a page that fills them in would send options that contradict others.

    Args:
        model: what the form is read into.
        names: of fields that are sent under another name.
    """
    schema = model.model_json_schema()
    definitions = schema.get("$defs", {})
    properties = {}
    for field, found in schema["properties"].items():
        described = _on_the_wire(found, definitions)
        name = (names or {}).get(field, field)
        properties[f"{name}[]" if described.get("type") == "array" else name] = described
    return properties


def sse_schema(description: str) -> Schema:
    """Return the schema of one server-sent event, as tools that read schemas take them apart."""
    return {
        "type": "object",
        "description": description,
        "required": ["data"],
        "properties": {
            "event": {"type": "string"},
            "data": {"type": "string", "contentMediaType": "application/json"},
        },
    }


def _on_the_wire(schema: Schema, definitions: Mapping[str, Schema]) -> Schema:
    given = {key: value for key, value in schema.items() if key not in ("anyOf", "title", "$ref")}
    if "$ref" in schema:
        definition = definitions[schema["$ref"].rpartition("/")[2]]
        given |= {key: definition[key] for key in ("type", "enum") if key in definition}
    for kind in schema.get("anyOf", ()):
        if kind != {"type": "null"}:
            given |= _on_the_wire(kind, definitions)
    default = given.pop("default", None)
    if default not in (None, "", []):
        shown = str(default).lower() if isinstance(default, bool) else default
        given["description"] = f"{given.get('description', '')} (default: {shown})".strip()
    return given
