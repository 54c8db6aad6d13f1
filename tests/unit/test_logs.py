from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from service import logs


@pytest.fixture(autouse=True)
def restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    yield
    root.handlers[:], level = before
    root.setLevel(level)


def written(form: logs.LogFormat, **values: object) -> str:
    stream = io.StringIO()
    logs.configure(form, stream=stream)
    token = logs.request_id.set("abc")
    try:
        logging.getLogger("service.test").info("POST %s", "/x", extra=logs.fields(**values))
    finally:
        logs.request_id.reset(token)
    return stream.getvalue()


def test_a_json_line_has_its_fields_and_its_request() -> None:
    line = json.loads(written("json", status=200, audio_s=1.5, missing=None))
    assert line["message"] == "POST /x"
    assert (line["status"], line["audio_s"], line["request_id"]) == (200, 1.5, "abc")
    assert line["level"] == "info"
    assert line["time"].endswith("Z")
    assert "missing" not in line


def test_a_text_line_is_one_line() -> None:
    line = written("text", status=200, error="two\nlines")
    assert line.count("\n") == 1
    assert "POST /x status=200" in line
    assert r'error="two\nlines"' in line
    assert line.endswith("request_id=abc\n")


def test_a_traceback_is_kept() -> None:
    stream = io.StringIO()
    logs.configure("json", stream=stream)
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("service.test").exception("failed")
    assert "ValueError: why" in json.loads(stream.getvalue())["exception"]


def test_lines_below_the_level_are_not_written() -> None:
    stream = io.StringIO()
    logs.configure("text", "warning", stream)
    logging.getLogger("service.test").info("quiet")
    assert not stream.getvalue()
