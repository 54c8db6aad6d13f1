"""The limits and deadlines of nginx are the service's own: a change of one is a change of both."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from service.settings import Settings


@pytest.fixture(scope="module")
def directives(repository: Path) -> dict[str, list[str]]:
    """Each directive of the server, with what it is given, outermost and innermost alike."""
    text = (repository / "deploy" / "nginx" / "earshot.conf.template").read_text(encoding="utf-8")
    code = re.sub(r"#.*$", "", text, flags=re.MULTILINE)
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"^\s*(\w+) ([^;{]*);", code, flags=re.MULTILINE):
        found.setdefault(name, []).append(value)
    return found


@pytest.mark.parametrize(
    ("directive", "field"),
    [
        ("client_header_timeout", "header_timeout_s"),
        ("client_body_timeout", "body_idle_timeout_s"),
        ("send_timeout", "send_timeout_s"),
        ("client_max_body_size", "max_upload_bytes"),
    ],
)
def test_nginx_has_the_services_defaults(
    directives: dict[str, list[str]], directive: str, field: str
) -> None:
    [value] = directives[directive]
    assert float(value.removesuffix("s")) == Settings.model_fields[field].default


def test_nginx_outwaits_the_longest_answer_and_hangs_up_on_idle_connections_first(
    directives: dict[str, list[str]],
) -> None:
    fields = Settings.model_fields
    [longest] = directives["proxy_read_timeout"]
    assert float(longest.removesuffix("s")) > fields["max_request_timeout_s"].default
    upstream, _ = directives["keepalive_timeout"]
    assert float(upstream.removesuffix("s")) < fields["idle_connection_timeout_s"].default


def test_nginx_passes_events_on_at_once(directives: dict[str, list[str]]) -> None:
    assert directives["proxy_buffering"] == ["off"]
    assert directives["gzip"] == ["off"]
    assert directives["proxy_http_version"] == ["1.1"]


def test_messages_say_the_limits_that_hold(
    directives: dict[str, list[str]], repository: Path
) -> None:
    text = (repository / "deploy" / "nginx" / "earshot.conf.template").read_text(encoding="utf-8")
    assert f"limit of {directives['client_max_body_size'][0]} bytes" in text
    [zone_and_limit] = directives["limit_conn"]
    assert f"has {zone_and_limit.split()[1]} requests running" in text
