"""Many clients at once: what each gets is what it gets alone, to the last bit."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from service.text.tokenizer import WhisperTokenizer
from tests.api.gated import Hold, held_server
from tests.api.live import DEADLINE_S, Limits, LiveServer, noise, stream_events, until, wav
from tests.api.tiny import tiny_parts

CLIENTS = 16
LEAVERS = 8
ROWS = 8
ENCODE_BATCH = 4

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def server(
    make_tokenizer: Callable[..., WhisperTokenizer],
) -> Iterator[tuple[LiveServer, Hold]]:
    parts = tiny_parts(make_tokenizer(), rows=ROWS, encode_batch=ENCODE_BATCH)
    with held_server(parts, Limits(max_requests=64)) as served:
        yield served


@pytest.fixture
def live(server: tuple[LiveServer, Hold]) -> LiveServer:
    return server[0]


@pytest.fixture
def hold(server: tuple[LiveServer, Hold]) -> Hold:
    return server[1]


def request_of(client: int) -> tuple[dict[str, str], bytes]:
    """Return options and audio of a client, different for every one."""
    options = {"language": ("en", "de", "ja")[client % 3]}
    if client % 4 == 1:
        options |= {"temperature": "0.7", "seed": str(client)}
    if client % 4 == 2:
        options |= {"without_timestamps": "true"}
    if client % 4 == 3:
        del options["language"]
    return options, wav(noise(0.6 + 0.31 * client, seed=client))


def transcribe(live: LiveServer, client: int, leave_after: int | None = None) -> list[Any]:
    """Return what one client hears: it may leave after some events."""
    options, audio = request_of(client)
    heard: list[Any] = []
    with (
        httpx.Client(base_url=live.url, timeout=4 * DEADLINE_S, trust_env=False) as http,
        http.stream("POST", "/transcribe", params=options, content=audio) as response,
    ):
        assert response.status_code == 200
        if leave_after == 0:
            return heard
        for event in stream_events(response):
            if event["type"] == "token":
                heard.append((event["window"], event["token_id"], event["logprob"]))
            elif event["type"] == "language":
                heard.append((event["language"], event["probability"]))
            elif event["type"] in {"retract", "done"}:
                heard.append((event["type"], event.get("from_index"), event.get("text")))
            if leave_after is not None and len(heard) >= leave_after:
                break
    return heard


def test_sixteen_clients_hear_what_they_hear_alone(live: LiveServer, hold: Hold) -> None:
    """Decoding goes on when all sixteen are there, so that some are decoded together."""
    alone = [transcribe(live, client) for client in range(CLIENTS)]
    assert len({str(heard) for heard in alone}) == CLIENTS, "the clients' audio must differ"
    live.until_idle()
    windows, batches, steps, tokens = counts(live)
    rng = random.Random(7)
    jobs: list[tuple[int, int | None]] = [(client, None) for client in range(CLIENTS)]
    jobs += [(rng.randrange(CLIENTS), rng.choice([0, 1, 5, 20, 40])) for _ in range(LEAVERS)]
    rng.shuffle(jobs)
    hold.after(0)
    with ThreadPoolExecutor(len(jobs)) as pool:
        heard_by_all = pool.map(lambda job: transcribe(live, *job), jobs)
        until(lambda: int(str(live.engine.stats()["requests"])) >= CLIENTS, "all are there")
        hold.release()
        results = list(heard_by_all)
    for (client, leave_after), heard in zip(jobs, results, strict=True):
        expected = alone[client] if leave_after is None else alone[client][:leave_after]
        assert heard == expected, f"client {client}"
    live.until_idle()
    now = counts(live)
    assert now[0] - windows > now[1] - batches, "windows were encoded together"
    assert now[3] - tokens > 2 * (now[2] - steps), "rows were decoded together"


def counts(live: LiveServer) -> tuple[float, float, float, float]:
    return (
        live.metric("earshot_encoder_windows_total"),
        live.metric("earshot_encoder_batches_total"),
        live.metric("earshot_decoder_steps_total"),
        live.metric("earshot_tokens_total", kind="generated"),
    )


def test_a_hundred_clients_that_leave_at_random_free_everything(live: LiveServer) -> None:
    rng = random.Random(11)
    jobs = [(rng.randrange(CLIENTS), rng.choice([0, 1, 2, 7, 15])) for _ in range(100)]
    with ThreadPoolExecutor(12) as pool:
        heard = list(pool.map(lambda job: transcribe(live, *job), jobs))
    for (_, leave_after), tokens in zip(jobs, heard, strict=True):
        assert len(tokens) <= leave_after
    live.until_idle()
    assert transcribe(live, 0)
