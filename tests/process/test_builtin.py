"""The first minute of a new user: the built-in model, the README's sample, the README's words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.process.running import Running


def _shown(page: str) -> list[dict[str, Any]]:
    """The events that a page shows; an ellipsis stands for what is left out."""
    lines = re.findall(r"^data: (\{.*\})$", page, flags=re.MULTILINE)
    return [json.loads(line.replace(", ...}", "}")) for line in lines]


@pytest.fixture(scope="module")
def service() -> Iterator[Running]:
    with Running() as running:
        yield running.wait_ready()


def test_the_readme_shows_what_the_service_says(
    service: Running, repository: Path, samples: Path
) -> None:
    heard = list(service.transcribe(samples / "zero_three_five_one.wav").events())
    assert heard[-1]["text"] == "zero three five one"
    words = [event["text"] for event in heard if event["type"] == "token" and event["text"]]
    assert "".join(words).split() == ["zero", "three", "five", "one"]
    for page in ("README.md", "docs/api.md"):
        shown = _shown((repository / page).read_text(encoding="utf-8"))
        assert [event["text"] for event in shown if event.get("text") and "index" in event] == words
        assert shown[0] | {"id": ""} == heard[0] | {"id": ""}
        assert shown[-1]["text"] == heard[-1]["text"]


def test_speech_that_is_no_digits_is_no_text(service: Running, samples: Path) -> None:
    heard = list(service.transcribe(samples / "not_digits.wav").events())
    assert heard[-1]["text"] == ""
