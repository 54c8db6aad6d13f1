"""What the official client of today raises where a server fails, is full, or is not ready."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import openai
import pytest

from service.decoding.hypotheses import Candidates
from service.engine.types import Group, Sampled
from tests.api.gated import gated_server
from tests.api.live import (
    MODEL,
    Limits,
    LiveServer,
    Parts,
    noise,
    services_of,
    until,
    wav,
)
from tests.sdk.test_current_version import client_of
from tests.unit.transcription.scripted import ScriptedRunner

SHORT = wav(noise(1.5))


def test_an_error_in_a_stream_is_raised(parts: Parts) -> None:
    class Failing(ScriptedRunner):
        def decode(self, groups: Sequence[Group]) -> list[Sampled | Candidates]:
            return [replace(sampled, failed=True) for sampled in super().decode(groups)]

    script = [5, 5, parts.tokenizer.eot]
    failing = replace(parts, runner=lambda: Failing(lambda w, p: script, rows=1), rows=1)
    with LiveServer(services_of(failing, Limits())) as live, client_of(live) as client:
        create = client.audio.transcriptions.create
        stream = create(model=MODEL, file=SHORT, language="en", stream=True)
        with pytest.raises(openai.APIError) as caught:
            list(stream)
        assert caught.value.code == "decoding_failed"
        with pytest.raises(openai.InternalServerError) as failed:
            create(model=MODEL, file=SHORT, language="en")
        assert failed.value.response.headers["x-should-retry"] == "false"


def test_a_full_server_is_a_rate_limit_and_worth_a_retry(parts: Parts) -> None:
    def rejected(live: LiveServer) -> float:
        return live.metric("earshot_requests_rejected_total", reason="queue_full")

    with gated_server(parts, Limits(max_requests=1)) as (live, gate):
        create: Any = client_of(live).audio.transcriptions.create
        patient: Any = client_of(live, max_retries=9).audio.transcriptions.create
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(create, model=MODEL, file=SHORT, language="en")
            until(lambda: live.engine.stats()["requests"] == 1, "the first one is in")
            with pytest.raises(openai.RateLimitError) as caught:
                create(model=MODEL, file=SHORT)
            assert caught.value.code == "queue_full"
            headers = caught.value.response.headers
            assert float(headers["retry-after-ms"]) > 0
            assert int(headers["retry-after"]) >= 1
            assert headers["x-should-retry"] == "true"
            second = pool.submit(patient, model=MODEL, file=SHORT, language="en")
            until(lambda: rejected(live) >= 2, "the second one was sent away")
            gate.set()
            assert first.result().text == second.result().text


def test_a_client_that_waits_no_longer_frees_its_place(parts: Parts) -> None:
    with gated_server(parts, Limits()) as (live, _):
        create: Any = client_of(live, timeout=1.0).audio.transcriptions.create
        with pytest.raises(openai.APITimeoutError):
            create(model=MODEL, file=SHORT, language="en")
        until(lambda: live.engine.stats()["requests"] == 0, "its place is free")


def test_a_server_that_starts_is_a_503_for_now(parts: Parts) -> None:
    opened = threading.Event()

    async def wait() -> None:
        await asyncio.to_thread(opened.wait, 60)

    services = services_of(parts, Limits(), before_loading=wait)
    with LiveServer(services, ready=False) as live:
        create: Any = client_of(live).audio.transcriptions.create
        with pytest.raises(openai.InternalServerError) as caught:
            create(model=MODEL, file=SHORT)
        assert (caught.value.status_code, caught.value.code) == (503, "starting")
        assert caught.value.response.headers["x-should-retry"] == "true"
        assert [model.id for model in client_of(live).models.list()] == [MODEL]
        opened.set()
