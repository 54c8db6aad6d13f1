from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.api.form import FormLimits, Upload, read_upload
from service.errors import InvalidRequest, PayloadTooLarge

LIMITS = FormLimits(max_parts=5, max_field_bytes=100)
BOUNDARY = "multipart/form-data; boundary=b"


async def pieces(body: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


def read(content_type: str | None, body: bytes, size: int = 1 << 16) -> Upload:
    return asyncio.run(read_upload(content_type, pieces(body, size), LIMITS))


def encoded(
    data: dict[str, str], file: bytes | None = None, name: str = "file"
) -> tuple[str, bytes]:
    files = None if file is None else {name: ("a.wav", file, "audio/wav")}
    request = httpx.Request("POST", "http://test", data=data, files=files or {"x": (None, b"y")})
    return request.headers["content-type"], request.read()


@settings(max_examples=50)
@given(st.binary(max_size=300), st.integers(1, 400))
def test_a_file_arrives_whole_however_the_body_is_cut(file: bytes, size: int) -> None:
    content_type, body = encoded({"language": "en"}, file)
    upload = read(content_type, body, size)
    assert upload.data == file
    assert upload.options == [("language", "en")]


def test_a_raw_body_is_the_file() -> None:
    for content_type in ("audio/wav", "Application/Octet-Stream", "video/webm; codecs=opus", None):
        assert read(content_type, b"RIFF....", 3) == Upload(b"RIFF....")


def test_a_form_without_a_file_has_none() -> None:
    content_type, body = encoded({"language": "en"}, b"x", name="audio")
    upload = read(content_type, body)
    assert upload.data is None
    assert upload.options == [("language", "en"), ("audio", "x")]


def test_a_field_that_comes_twice_is_kept_twice() -> None:
    body = (
        b'--b\r\nContent-Disposition: form-data; name="seed"\r\n\r\n1\r\n'
        b'--b\r\nContent-Disposition: form-data; name="seed"\r\n\r\n2\r\n--b--\r\n'
    )
    assert read(BOUNDARY, body).options == [("seed", "1"), ("seed", "2")]


@pytest.mark.parametrize(
    ("content_type", "body", "message"),
    [
        ("text/plain", b"hello", "content-type is 'text/plain'"),
        ("application/x-www-form-urlencoded", b"a=b", "multipart/form-data"),
        ("multipart/form-data", b"--b--", "names no boundary"),
        (BOUNDARY, b"no boundary at all", "the form is damaged"),
        (BOUNDARY, b"", "ends before its last boundary"),
        (BOUNDARY, b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nab', "ends before"),
        (BOUNDARY, b"--b\r\nContent-Disposition: form-data\r\n\r\na\r\n--b--", "has no name"),
        (BOUNDARY, b"--b\r\nX: y\r\n\r\na\r\n--b--", "has no name"),
        (
            BOUNDARY,
            b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\na\r\n' * 2 + b"--b--",
            "more than one 'file'",
        ),
        (
            BOUNDARY,
            b'--b\r\nContent-Disposition: form-data; name="seed"\r\n\r\n\xff\r\n--b--',
            "seed is not UTF-8",
        ),
        (
            BOUNDARY,
            b'--b\r\nContent-Disposition: form-data; name="seed"\r\n\r\n1\r\n' * 6 + b"--b--",
            "more than 5 parts",
        ),
        ("multipart/form-data; boundary=" + "b" * 300, b"--b--", "damaged"),
        (BOUNDARY, b"--b\r\n" + b"X" * 10_000 + b": y\r\n\r\n", "damaged"),
    ],
)
def test_a_bad_body_is_refused(content_type: str, body: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        read(content_type, body)


def test_a_long_field_is_refused_while_it_arrives() -> None:
    head = b'--b\r\nContent-Disposition: form-data; name="language"\r\n\r\n'
    with pytest.raises(PayloadTooLarge, match="language has more bytes than a field may have, 100"):
        read(BOUNDARY, head + b"x" * 101, size=50)


@settings(max_examples=50)
@given(st.binary(max_size=200), st.integers(1, 64))
def test_no_body_does_anything_but_parse_or_be_refused(body: bytes, size: int) -> None:
    for prefix in (b"", b"--b\r\n", b'--b\r\nContent-Disposition: form-data; name="file"\r\n'):
        with contextlib.suppress(InvalidRequest, PayloadTooLarge):
            read(BOUNDARY, prefix + body, size)
