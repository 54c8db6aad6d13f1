"""Uploads: a multipart form or a raw body becomes one file in memory and its options as text.

Knows nothing about what the options mean. The form is parsed while it arrives, so that the limits
hold while it arrives. Names of files are ignored, and so are their types.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.errors import InvalidRequest, PayloadTooLarge

FILE = "file"
_RAW_TYPES = re.compile(r"(audio|video)/.+|application/(octet-stream|ogg|mp4)")


@dataclass(slots=True)
class Upload:
    """What a request brought.

    Attributes:
        data: the file's bytes; None if there was no file.
        options: name and value of each option, in order; a name may come twice.
    """

    data: bytes | None = None
    options: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class FormLimits:
    """What a form may hold beside its file: parts, and bytes of each text field."""

    max_parts: int
    max_field_bytes: int


async def read_upload(
    content_type: str | None,
    chunks: AsyncIterator[bytes],
    limits: FormLimits,
    *,
    form_only: bool = False,
) -> Upload:
    """Return the upload in a body.

    Args:
        content_type: of the body; octets where it is not given.
        chunks: the body.
        limits: of a form.
        form_only: refuse a body that is the file itself.

    Raises:
        InvalidRequest: for a content type that holds no audio, a damaged form, or a form over its
            limits.
    """
    kind, parameters = parse_options_header(content_type or "application/octet-stream")
    if kind == b"multipart/form-data":
        return await _read_form(parameters.get(b"boundary", b""), chunks, limits)
    if form_only or not _RAW_TYPES.fullmatch(kind.decode("latin-1")):
        raw = (
            "" if form_only else ", or the bytes of the file as audio/* or application/octet-stream"
        )
        raise InvalidRequest(
            f"content-type is {kind.decode('latin-1')[:80]!r}: send multipart/form-data with a part"
            f" {FILE!r}{raw}",
            code="unsupported_content_type",
        )
    return Upload(b"".join([chunk async for chunk in chunks]))


async def _read_form(boundary: bytes, chunks: AsyncIterator[bytes], limits: FormLimits) -> Upload:
    if not boundary:
        raise InvalidRequest("the content-type multipart/form-data names no boundary")
    form = _Form(limits)
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": form.on_part_begin,
                "on_header_field": form.on_header_name,
                "on_header_value": form.on_header_value,
                "on_header_end": form.on_header_end,
                "on_headers_finished": form.on_headers_finished,
                "on_part_data": form.on_part_data,
                "on_part_end": form.on_part_end,
                "on_end": form.on_end,
            },
        )
        async for chunk in chunks:
            parser.write(chunk)
        parser.finalize()
    except FormParserError as error:
        raise InvalidRequest(f"the form is damaged: {error}") from error
    if not form.ended:
        raise InvalidRequest("the form ends before its last boundary")
    return form.upload()


class _Form:
    """The parser's callbacks, over the form's parts."""

    def __init__(self, limits: FormLimits) -> None:
        self.ended = False
        self._file: list[bytes] | None = None
        self._options: list[tuple[str, str]] = []
        self._limits = limits
        self._parts = 0
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._disposition = b""
        self._field: str | None = None
        self._value = bytearray()

    def upload(self) -> Upload:
        data = None if self._file is None else b"".join(self._file)
        return Upload(data, self._options)

    def on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > self._limits.max_parts:
            raise InvalidRequest(f"the form has more than {self._limits.max_parts} parts")
        self._disposition = b""

    def on_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def on_header_end(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = bytes(self._header_value)
        self._header_name.clear()
        self._header_value.clear()

    def on_headers_finished(self) -> None:
        _, parameters = parse_options_header(self._disposition)
        name = parameters.get(b"name")
        if name is None:
            raise InvalidRequest("a part of the form has no name")
        self._field = _text(name, "the name of a part")
        self._value.clear()
        if self._field == FILE:
            if self._file is not None:
                raise InvalidRequest(f"the form has more than one {FILE!r}", param=FILE)
            self._file = []

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._field == FILE and self._file is not None:
            self._file.append(data[start:end])
            return
        self._value += data[start:end]
        limit = self._limits.max_field_bytes
        if len(self._value) > limit:
            raise PayloadTooLarge(
                f"{self._field} has more bytes than a field may have, {limit}", param=self._field
            )

    def on_part_end(self) -> None:
        assert self._field is not None  # noqa: S101 - headers come before the end
        if self._field != FILE:
            self._options.append((self._field, _text(self._value, self._field)))

    def on_end(self) -> None:
        self.ended = True


def _text(data: bytes | bytearray, name: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidRequest(f"{name} is not UTF-8", param=name) from None
