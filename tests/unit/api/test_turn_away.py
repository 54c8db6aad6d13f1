from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from service.api.errors import REFUSAL
from service.api.keys import ApiKeys
from service.api.turn_away import TurnAway
from service.errors import EngineBusy, EngineDraining, Unavailable

PATH = "/transcribe"


class Asked:
    """What one request came to, by services that have no place for the reason given."""

    def __init__(
        self,
        why: Unavailable | None,
        *,
        keys: tuple[str, ...] = (),
        headers: Mapping[str, str] = MappingProxyType({}),
        scope: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.passed = False
        self.sent: list[Message] = []
        encoded = [(k.encode(), v.encode()) for k, v in headers.items()]
        self.scope: Scope = {
            "type": "http", "method": "POST", "path": PATH, "headers": encoded, "state": {},
            **scope,
        }  # fmt: skip

        def require_place() -> None:
            if why is not None:
                raise why

        serving = SimpleNamespace(engine=SimpleNamespace(require_place=require_place))
        services: Any = SimpleNamespace(
            require_serving=lambda: serving, config=SimpleNamespace(api_keys=ApiKeys(keys))
        )
        gate = TurnAway(self._app, services, [Route(PATH, self._app, methods=["POST"])])
        asyncio.run(gate(self.scope, self._receive, self._send))

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.passed = True

    async def _receive(self) -> Message:
        raise AssertionError("a refusal reads nothing")

    async def _send(self, message: Message) -> None:
        self.sent.append(message)


def test_without_a_place_the_answer_is_given_before_the_app_is_entered() -> None:
    why = EngineBusy("2 requests are running", retry_after_s=3.0)
    asked = Asked(why)
    assert not asked.passed
    start, body = asked.sent
    assert start["status"] == 429
    assert dict(start["headers"])[b"retry-after"] == b"3"
    assert json.loads(body["body"])["error"]["code"] == "queue_full"
    assert asked.scope["state"][REFUSAL] is why
    assert asked.scope["route"].path == PATH


def test_who_may_not_come_at_all_is_told_why() -> None:
    asked = Asked(EngineDraining("the service is shutting down"))
    assert not asked.passed
    assert asked.sent[0]["status"] == 503


def test_with_a_place_everybody_is_let_through() -> None:
    assert Asked(None).passed


@pytest.mark.parametrize(
    "other",
    [{"path": "/transcribe/"}, {"path": "/health"}, {"method": "GET"}, {"type": "websocket"}],
)
def test_what_takes_no_place_is_let_through(other: dict[str, str]) -> None:
    assert Asked(EngineBusy("full"), scope=other).passed


@pytest.mark.parametrize("offered", ["", "Bearer", "Bearer other", "Basic key", "key"])
def test_who_has_no_key_does_not_learn_whether_there_is_a_place(offered: str) -> None:
    headers = {"authorization": offered} if offered else {}
    assert Asked(EngineBusy("full"), keys=("key",), headers=headers).passed


@pytest.mark.parametrize("offered", ["Bearer key", "bearer key"])
def test_who_has_a_key_does(offered: str) -> None:
    asked = Asked(EngineBusy("full"), keys=("key",), headers={"authorization": offered})
    assert not asked.passed
