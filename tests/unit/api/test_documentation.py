"""docs/api.md and the schema at /openapi.json say the same."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service import errors
from tests.api.schema import app_schema

UPLOADS = ("/transcribe", "/v1/audio/transcriptions", "/v1/audio/translations")


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return app_schema()


@pytest.fixture(scope="module")
def page() -> str:
    return (Path(__file__).parents[3] / "docs" / "api.md").read_text(encoding="utf-8")


def section(page: str, title: str) -> str:
    """Return a section of the page, with what stands below it."""
    found = re.search(
        rf"^(#+) {re.escape(title)}\n(.*?)(?=^#{{1,2}} |\Z)", page, re.MULTILINE | re.DOTALL
    )
    assert found is not None, title
    return found[2]


def first_cells(text: str) -> set[str]:
    """Return the names in the first columns of tables."""
    cells = re.findall(r"^\| ([^|]+) \|", text, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def form_of(schema: dict[str, Any], path: str) -> dict[str, Any]:
    body = schema["paths"][path]["post"]["requestBody"]["content"]["multipart/form-data"]
    properties: dict[str, Any] = body["schema"]["properties"]
    return properties


def test_every_path_is_on_the_page(schema: dict[str, Any], page: str) -> None:
    missing = [
        path for path in schema["paths"] if f"{path.replace('{model_id}', '{id}')}`" not in page
    ]
    assert not missing


def test_every_option_of_transcribe_is_on_the_page_and_no_other(
    schema: dict[str, Any], page: str
) -> None:
    options = set(form_of(schema, "/transcribe")) - {"file"}
    documented = first_cells(section(page, "`POST /transcribe`").partition("\n### ")[0])
    assert documented == options


def test_every_field_of_openais_routes_is_on_the_page_and_no_other(
    schema: dict[str, Any], page: str
) -> None:
    own = set(form_of(schema, "/transcribe"))
    documented = {
        name.removesuffix("[]")
        for name in first_cells(section(page, "OpenAI's audio API"))
        if not name.startswith(("GET ", "POST ", "transcript.", "error"))
    }
    for path in UPLOADS[1:]:
        fields = {name.removesuffix("[]") for name in form_of(schema, path)}
        assert documented <= fields
        assert fields - own <= documented


def test_every_error_is_on_the_page(schema: dict[str, Any], page: str) -> None:
    table = section(page, "Errors")
    documented = {int(status) for status in re.findall(r"^\| (\d{3}) \|", table, re.MULTILINE)}
    described = {
        int(status)
        for path in UPLOADS
        for status in schema["paths"][path]["post"]["responses"]
        if status != "200"
    }
    assert documented == described
    codes = {kind.code for kind in _every(errors.ServiceError)} - {
        "invalid_checkpoint", "device_unavailable",  # at start
        "session_closed",  # to nobody
    }  # fmt: skip
    assert not {code for code in codes if f"`{code}`" not in table}


def test_every_event_is_on_the_page_and_in_the_schema(schema: dict[str, Any], page: str) -> None:
    for path, title in (("/transcribe", "Events"), (UPLOADS[1], "OpenAI's audio API")):
        content = schema["paths"][path]["post"]["responses"]["200"]["content"]
        stream = content["text/event-stream"]
        described = stream["schema"]["description"]
        listed = re.findall(r"^- `([a-z_.]+)`", described, re.MULTILINE)
        events = set(stream.get("x-events", listed))
        assert events
        assert events <= first_cells(section(page, title))


def test_every_field_is_described(schema: dict[str, Any]) -> None:
    for path in UPLOADS:
        for name, field in form_of(schema, path).items():
            assert field.get("description") or name == "file", (path, name)


def _every(kind: type[errors.ServiceError]) -> Iterator[type[errors.ServiceError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _every(child)
