from __future__ import annotations

import asyncio
import gc
import json
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from service.api.deps import ApiConfig
from service.api.errors import REFUSAL
from service.api.keys import ApiKeys
from service.api.turn_away import CROWD_S, SAME_S, Door, Places, Refusal, TurnAway, as_lines
from service.engine.engine import EngineState
from service.errors import EngineBusy, EngineDraining, Unavailable
from service.metrics import Metrics

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
        gate = TurnAway(self._app, Places(services, [Route(PATH, self._app, methods=["POST"])]))
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


class AtTheDoor:
    """What a door answers to requests, where there is no place for the reason given."""

    def __init__(self, why: Callable[[], Unavailable] | None, **config: Any) -> None:
        def require_place() -> None:
            if why is not None:
                raise why()

        engine = SimpleNamespace(require_place=require_place, is_full=True)
        serving = SimpleNamespace(engine=engine)
        self.metrics = Metrics()
        self.services = services = SimpleNamespace(
            require_serving=lambda: serving,
            serving=serving,
            state=EngineState.READY,
            metrics=self.metrics,
            config=ApiConfig(**{"model_id": "tiny", "drain_bytes": 1000, **config}),
        )
        asked: Any = services
        self.door = Door(Places(asked, [Route(PATH, lambda: None, methods=["POST"])]))

    def asked(
        self,
        *headers: tuple[str, str],
        length: str | None = "1000",
        method: str = "POST",
        target: str = f"{PATH}?stream=false",
    ) -> Refusal | None:
        of_body = [] if length is None else [("content-length", length)]
        encoded = [(k.encode(), v.encode()) for k, v in (*of_body, *headers)]
        return self.door(method.encode(), target.encode(), encoded)


def full() -> EngineBusy:
    return EngineBusy("2 requests are running", retry_after_s=3.0)


def test_a_door_says_what_the_app_would_say(caplog: pytest.LogCaptureFixture) -> None:
    door = AtTheDoor(full)
    with caplog.at_level("INFO"):
        refusal = door.asked(("x-request-id", "mine"))
    assert refusal is not None
    start, body = Asked(full()).sent
    assert refusal.status == start["status"]
    assert refusal.body == body["body"]
    assert refusal.lines == as_lines([*start["headers"], (b"x-request-id", b"mine")])
    count = door.metrics.registry.get_sample_value
    labels = {"endpoint": PATH, "stream": "false", "status": "429"}
    assert count("earshot_requests_total", labels) == 1
    assert count("earshot_requests_rejected_total", {"reason": "queue_full"}) == 1
    (line,) = caplog.records
    assert line.getMessage() == f"POST {PATH}"
    fields = vars(line)["fields"]
    assert (fields["status"], fields["error"]) == (429, "queue_full")


def test_a_door_says_the_same_for_a_moment_and_then_what_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = 100.0
    monkeypatch.setattr("service.api.turn_away.time.monotonic", lambda: now_s)
    left_s = iter([3.0, 7.0])
    door = AtTheDoor(lambda: EngineBusy("full", retry_after_s=next(left_s)))
    told = [door.asked(), door.asked()]
    now_s += 2 * SAME_S
    told.append(door.asked())
    lines = [refusal.lines for refusal in told if refusal is not None]
    assert [re.findall(rb"retry-after: (\d+)", of) for of in lines] == [[b"3"], [b"3"], [b"7"]]
    assert len(set(lines)) == 3  # each has an id of its own


def test_a_door_asks_anew_as_soon_as_there_may_be_a_place() -> None:
    why: list[Unavailable] = [full(), EngineDraining("shutting down")]
    for change in ({"is_full": False}, {"state": EngineState.DRAINING}):
        door = AtTheDoor(iter(why).__next__)
        assert door.asked() is not None
        assert door.asked() is not None  # nothing is asked for it
        if "state" in change:
            door.services.state = change["state"]
        else:
            door.services.serving.engine.is_full = change["is_full"]
        assert door.asked() is None


def test_an_id_that_could_do_harm_is_not_repeated_at_the_door() -> None:
    refusal = AtTheDoor(full).asked(("x-request-id", "a\tb"))
    assert refusal is not None
    assert re.search(rb"\r\nx-request-id: [0-9a-f]{32}\r\n", refusal.lines)


@pytest.mark.parametrize("target", [f"{PATH}/", "/health", f"{PATH}%2f", "/%74ranscribe", "*", ""])
def test_a_door_lets_through_what_it_does_not_know(target: str) -> None:
    assert AtTheDoor(full).asked(target=target) is None
    assert AtTheDoor(full).asked(method="GET") is None
    assert AtTheDoor(None).asked() is None
    assert AtTheDoor(lambda: EngineDraining("shutting down")).asked() is None


@pytest.mark.parametrize("length", [None, "", "1001", "-1", "+1", "\u0661", "1 0"])
def test_a_body_that_cannot_be_passed_over_is_not_refused_at_the_door(length: str | None) -> None:
    assert AtTheDoor(full).asked(length=length) is None


@pytest.mark.parametrize("length", ["0", "1000"])
def test_the_usual_client_is_refused_at_the_door(length: str) -> None:
    assert AtTheDoor(full).asked(("accept", "*/*"), length=length) is not None


@pytest.mark.parametrize(
    "header",
    [("transfer-encoding", "chunked"), ("expect", "100-continue"), ("upgrade", "h2c")],
)
def test_who_may_not_send_its_body_is_not(header: tuple[str, str]) -> None:
    assert AtTheDoor(full).asked(header) is None


def test_pages_of_other_origins_are_answered_by_the_app_if_they_may_ask() -> None:
    origin = ("origin", "https://app.example")
    assert AtTheDoor(full).asked(origin) is not None
    door = AtTheDoor(full, cors_origins=("https://app.example",))
    assert door.asked(origin) is None
    refusal = door.asked()
    assert refusal is not None
    assert b"\r\nvary: Origin\r\n" in refusal.lines


def test_a_refusal_at_the_door_leaves_nothing_to_the_collector() -> None:
    door = AtTheDoor(full)
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            assert door.asked() is not None
        assert gc.collect() < 20
    finally:
        gc.enable()


def test_a_door_asks_for_the_key_first() -> None:
    door = AtTheDoor(full, api_keys=ApiKeys(["key"]))
    right, wrong = ("authorization", "Bearer key"), ("authorization", "Bearer other")
    assert door.asked() is None
    assert door.asked(wrong) is None
    assert door.asked(wrong, right) is None  # the first counts, as everywhere
    assert door.asked(right) is not None
    assert door.asked(wrong) is None  # though it is known what to say


def test_a_door_knows_a_crowd_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr("service.api.turn_away.time.monotonic", lambda: now_s)
    busy = AtTheDoor(full)
    assert not busy.door.is_crowded()
    assert busy.asked(method="GET") is None
    assert not busy.door.is_crowded()
    assert busy.asked() is not None
    assert busy.door.is_crowded()
    now_s += 2 * CROWD_S
    assert not busy.door.is_crowded()
