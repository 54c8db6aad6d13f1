"""Log lines as text for people or as JSON for machines, each with the id of its request.

Knows nothing about HTTP: whoever serves a request sets `request_id`. Never log audio, text or keys.
"""

from __future__ import annotations

import contextvars
import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import IO, Any, Literal

request_id: contextvars.ContextVar[str | None] = contextvars.ContextVar("request_id", default=None)
"""The request that the running task works for."""

LogFormat = Literal["text", "json"]
_FIELDS = "fields"


def fields(**values: object) -> dict[str, Any]:
    """Return the `extra=` argument that adds named values to a log line; None is left out."""
    return {_FIELDS: {name: value for name, value in values.items() if value is not None}}


class RequestIdFilter(logging.Filter):
    """Stamps the running request's id on every record, in the task that logs."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add `request_id` to the record unless it has one; keep it."""
        if not hasattr(record, "request_id"):
            record.request_id = request_id.get()
        return True


class TextFormatter(logging.Formatter):
    """`12:30:59.120 INFO  service.api: message key=value request_id=...` on one line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, followed by the traceback if there is one."""
        time = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S.%f")[:-3]
        line = f"{time} {record.levelname:<7} {record.name}: {record.getMessage()}"
        for name, value in _values(record).items():
            line += f" {name}={_plain(value)}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the object on one line; a traceback is its `exception`."""
        time = datetime.fromtimestamp(record.created, UTC)
        data: dict[str, object] = {
            "time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        data |= _values(record)
        if record.exc_info:
            data["exception"] = self.formatException(record.exc_info)
        return json.dumps(data, ensure_ascii=False, default=str)


def choose_format(name: Literal["auto", "text", "json"]) -> LogFormat:
    """Return the format of log lines: `auto` asks whether a person is looking."""
    if name != "auto":
        return name
    return "text" if sys.stderr.isatty() else "json"


def configure(form: LogFormat, level: str = "info", stream: IO[str] | None = None) -> None:
    """Send every log line of the process to one stream, standard error by default.

    Replaces the root logger's handlers, and lets uvicorn's loggers through to it. Parsers of what
    clients send are silenced: a client cannot fill the log with lines that no request's line has.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    handler.addFilter(RequestIdFilter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)


def _values(record: logging.LogRecord) -> Mapping[str, object]:
    values: dict[str, object] = dict(getattr(record, _FIELDS, {}))
    current = getattr(record, "request_id", None)
    if current is not None:
        values.setdefault("request_id", current)
    return values


def _plain(value: object) -> str:
    """Return a value that cannot break the line or be taken for two."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if not text.isprintable() or " " in text else text
