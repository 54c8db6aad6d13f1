from __future__ import annotations

import pytest

from service.api.accept import preferred

OFFERED = ("application/json", "image/svg+xml", "text/plain")


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", "application/json"),
        ("*/*", "application/json"),
        ("application/pdf", "application/json"),
        ("image/svg+xml", "image/svg+xml"),
        ("IMAGE/SVG+XML ; charset=utf-8", "image/svg+xml"),
        ("image/*", "image/svg+xml"),
        ("text/*, application/json;q=0.5", "text/plain"),
        ("application/json;q=0.5, image/svg+xml;q=0.9", "image/svg+xml"),
        ("*/*, image/svg+xml;q=0.2", "application/json"),
        ("application/json;q=0, */*;q=0.1", "image/svg+xml"),
        ("text/plain;q=nonsense, image/svg+xml;q=0.1", "image/svg+xml"),
        ("text/plain;q=7, image/svg+xml;q=0.1", "image/svg+xml"),
        (";,;;q=,,", "application/json"),
    ],
)
def test_the_type_that_weighs_most_is_chosen(accept: str, expected: str) -> None:
    assert preferred(accept, OFFERED) == expected
