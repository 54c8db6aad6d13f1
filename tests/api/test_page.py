from __future__ import annotations

import re
from pathlib import Path

import pytest

from service.api.schemas import TranscribeOptions
from tests.api.live import MODEL, Limits, LiveServer, Parts, assert_envelope, gate, services_of

WEB = "service/api/web"


def policy(live: LiveServer, path: str) -> dict[str, str]:
    header = live.client.get(path).headers["content-security-policy"]
    return dict(rule.strip().split(" ", 1) for rule in header.split(";"))


def test_the_page_may_load_nothing_from_elsewhere(live: LiveServer) -> None:
    response = live.client.get("/")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert policy(live, "/") == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self'",
        "connect-src": "'self'",
        "media-src": "blob:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    assert policy(live, "/docs")["script-src"] == "'self'"
    assert policy(live, "/docs")["default-src"] == "'none'"


def test_every_file_of_the_page_is_served_as_what_it_is(live: LiveServer, repository: Path) -> None:
    types = {".css": "text/css", ".html": "text/html", ".js": "text/javascript",
             ".svg": "image/svg+xml"}  # fmt: skip
    files = list((repository / WEB).iterdir())
    assert len(files) > 10
    for file in files:
        response = live.client.get(f"/web/{file.name}")
        assert response.content == file.read_bytes()
        assert response.headers["content-type"].startswith(types[file.suffix])


def test_no_file_of_the_page_names_another_host(repository: Path) -> None:
    for file in (repository / WEB).iterdir():
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|//\w+\.\w+/", text), file.name


@pytest.mark.parametrize("path", ["/", "/web/app.js", "/docs", "/docs/swagger-ui.css"])
def test_a_browser_that_has_a_file_is_not_sent_it_again(live: LiveServer, path: str) -> None:
    first = live.client.get(path)
    assert first.headers["cache-control"] == "no-cache"
    again = live.client.get(path, headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("path", ["/web/none.js", "/web/..%2fpage.py", "/docs/none.js"])
def test_a_file_that_the_page_does_not_have_is_not_found(live: LiveServer, path: str) -> None:
    assert assert_envelope(live.client.get(path), 404)["code"] == "not_found"


def test_the_page_is_told_what_it_can_offer(live: LiveServer) -> None:
    facts = live.client.get("/web/facts.json").json()
    assert facts["model"] == MODEL
    assert facts["max_upload_bytes"] == live.services.config.max_upload_bytes
    assert facts["needs_key"] is False
    assert facts["options"] == list(TranscribeOptions.model_fields)
    assert facts["languages"] == {"en": "English", "de": "German", "ja": "Japanese"}


def test_the_page_is_there_before_the_languages_are(parts: Parts) -> None:
    opened, wait = gate()
    try:
        with LiveServer(services_of(parts, Limits(), wait), ready=False) as live:
            assert live.client.get("/").status_code == 200
            assert live.client.get("/web/facts.json").json()["languages"] is None
            opened.set()
    finally:
        opened.set()
