from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import replace

import httpx

from service.decoding.hypotheses import Candidates
from service.engine.engine import EngineState
from service.engine.types import Group, RunnerDead, Sampled
from service.errors import CheckpointError
from tests.api.live import (
    DEADLINE_S,
    Limits,
    LiveServer,
    Parts,
    assert_envelope,
    events_of,
    gate,
    noise,
    services_of,
    stream_events,
    until,
    wav,
)
from tests.unit.transcription.scripted import ScriptedRunner

SHORT = wav(noise(0.5))
LONG = wav(noise(20.0))


def probes(live: LiveServer) -> dict[str, tuple[int, str]]:
    answers = {path: live.client.get(path) for path in ("/livez", "/health", "/readyz")}
    return {path: (a.status_code, a.json()["status"]) for path, a in answers.items()}


def test_starting_can_be_seen_and_takes_no_work(parts: Parts) -> None:
    opened, wait = gate()
    with LiveServer(services_of(parts, Limits(), before_loading=wait), ready=False) as live:
        assert probes(live) == {
            "/livez": (200, "starting"), "/health": (200, "starting"), "/readyz": (503, "starting"),
        }  # fmt: skip
        response = live.transcribe(SHORT)
        assert assert_envelope(response, 503)["code"] == "starting"
        assert int(response.headers["retry-after"]) >= 1
        assert live.metric("earshot_ready") == 0
        opened.set()
        until(lambda: live.services.state is EngineState.READY, "it is ready")
        assert live.client.get("/readyz").status_code == 200
        assert live.metric("earshot_ready") == 1
        assert live.transcribe(SHORT).status_code == 200


def test_a_model_that_cannot_be_loaded_is_dead(parts: Parts) -> None:
    told: list[BaseException] = []

    async def fail() -> None:
        raise CheckpointError("model.safetensors: tensor missing")

    services = services_of(parts, Limits(), before_loading=fail, on_dead=told.append)
    with LiveServer(services, ready=False) as live:
        until(lambda: live.services.state is EngineState.DEAD, "it is dead")
        assert probes(live) == dict.fromkeys(("/livez", "/health", "/readyz"), (503, "dead"))
        assert assert_envelope(live.transcribe(SHORT), 503)["code"] == "engine_dead"
    assert [type(error) for error in told] == [CheckpointError]


def test_a_server_that_ends_while_its_decoder_starts_leaves_no_engine(parts: Parts) -> None:
    """The engine is warm by then, and nobody else knows of it."""
    services = services_of(parts, Limits())

    async def never() -> None:
        await asyncio.Event().wait()

    services.audio_decoder.start = never  # type: ignore[method-assign]
    before = engines()
    with LiveServer(services, ready=False) as live:
        until(lambda: engines() == before + 1, "it is warming up")
        assert live.services.state is EngineState.STARTING


def engines() -> int:
    return sum(thread.name == "engine" for thread in threading.enumerate())


def test_draining_finishes_what_runs_and_takes_nothing_new(parts: Parts) -> None:
    with (
        LiveServer(services_of(parts, Limits())) as live,
        live.client.stream("POST", "/transcribe?language=en", content=LONG) as response,
    ):
        events = stream_events(response)
        next(events)
        live.services.drain()
        with httpx.Client(base_url=live.url, timeout=DEADLINE_S, trust_env=False) as other:
            refused = other.post("/transcribe", content=SHORT)
            assert assert_envelope(refused, 503)["code"] == "draining"
            assert refused.headers["retry-after"]
            assert other.get("/readyz").json()["status"] == "draining"
            assert other.get("/livez").status_code == 200
        assert list(events)[-1]["type"] == "done"


def scripted(parts: Parts, *tokens: int) -> Parts:
    return replace(
        parts,
        runner=lambda: ScriptedRunner(lambda window, params: tokens, rows=parts.rows),
    )


def test_an_error_in_the_stream_is_its_last_event(parts: Parts) -> None:
    with LiveServer(services_of(scripted(parts, 5, 6, -1), Limits())) as live:
        response = live.transcribe(SHORT, language="en")
        assert response.status_code == 200
        events = events_of(response.text)
        assert [e["type"] for e in events] == ["started", "token", "token", "error"]
        assert events[-1]["error"]["code"] == "decoding_failed"
        assert list(events[-1]["error"]) == ["message", "type", "param", "code"]
        live.until_idle()
        until(
            lambda: live.metric("earshot_request_failures_total", reason="decoding_failed") == 1,
            "it is counted",
        )


def test_an_error_before_the_answer_is_its_status(parts: Parts) -> None:
    with LiveServer(services_of(scripted(parts, 5, 6, -1), Limits())) as live:
        response = live.transcribe(SHORT, language="en", stream=False)
        assert assert_envelope(response, 500)["code"] == "decoding_failed"
        assert response.headers["x-should-retry"] == "false"
        live.until_idle()


class LosingRunner(ScriptedRunner):
    """Loses its device in the middle of a window."""

    def __init__(self, lost: threading.Event, rows: int) -> None:
        super().__init__(lambda window, params: [5] * 30, rows)
        self._lost = lost

    def decode(self, groups: Sequence[Group]) -> list[Sampled | Candidates]:
        self._lost.set()
        raise RunnerDead("the device is lost")


def test_a_lost_device_ends_every_stream_and_kills_the_probes(parts: Parts) -> None:
    lost = threading.Event()
    dying = replace(parts, runner=lambda: LosingRunner(lost, parts.rows))
    with LiveServer(services_of(dying, Limits())) as live:
        events = events_of(live.transcribe(SHORT, language="en").text)
        assert events[-1]["type"] == "error"
        assert events[-1]["error"]["code"] == "engine_dead"
        assert lost.is_set()
        assert probes(live) == dict.fromkeys(("/livez", "/health", "/readyz"), (503, "dead"))
        assert assert_envelope(live.transcribe(SHORT), 503)["code"] == "engine_dead"


def test_a_request_that_is_refused_needs_no_worker_thread(parts: Parts) -> None:
    """It would wait there for its turn beside the engine's thread."""
    before = set(threading.enumerate())
    with LiveServer(services_of(parts, Limits(max_requests=1))) as live:
        permit = live.engine.session()
        assert_envelope(live.transcribe(SHORT), 429)
        assert live.client.get("/readyz").status_code == 200
        new = {thread.name for thread in set(threading.enumerate()) - before}
        assert not {name for name in new if "AnyIO" in name}
        permit.close()
