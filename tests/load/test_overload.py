"""Ten times as many clients as places: some are served, the others are told when to come back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import httpx
import pytest

from service.text.tokenizer import WhisperTokenizer
from tests.api.gated import Hold, held_server
from tests.api.live import (
    DEADLINE_S,
    Limits,
    LiveServer,
    assert_envelope,
    events_of,
    noise,
    until,
    wav,
)
from tests.api.tiny import tiny_parts

PLACES, ROWS = 3, 2
CLIENTS = 10 * PLACES
RECORDINGS = [wav(noise(0.6 + 0.1 * seed, seed=seed)) for seed in range(4)]

Heard = list[tuple[int, float]]

pytestmark = pytest.mark.timeout(600)


@dataclass
class Tally:
    """What the clients met with."""

    refusals: list[int] = field(default_factory=list)
    most: int = 0


def heard(response: httpx.Response) -> Heard:
    assert response.status_code == 200
    events = events_of(response.text)
    assert events[-1]["type"] == "done"
    return [(e["token_id"], e["logprob"]) for e in events if e["type"] == "token"]


def come_until_served(
    live: LiveServer, hold: Hold, client: int, together: threading.Barrier, tally: Tally
) -> Heard:
    """Send a request until it is taken: each time as soon as there is a place for somebody.

    Nothing is decoded until somebody was refused.
    """
    audio = RECORDINGS[client % len(RECORDINGS)]
    with httpx.Client(base_url=live.url, timeout=DEADLINE_S, trust_env=False) as http:
        together.wait(DEADLINE_S)
        while True:
            response = http.post("/transcribe?language=en", content=audio)
            tally.most = max(tally.most, int(str(live.engine.stats()["requests"])))
            if response.status_code == 200:
                return heard(response)
            assert assert_envelope(response, 429)["code"] == "queue_full"
            tally.refusals.append(int(response.headers["retry-after"]))
            hold.release()
            until(lambda: int(str(live.engine.stats()["requests"])) < PLACES, "a place is free")


def test_ten_times_the_capacity_is_refused_politely_and_served_in_the_end(
    make_tokenizer: Callable[..., WhisperTokenizer],
) -> None:
    parts = tiny_parts(make_tokenizer(), rows=ROWS)
    with held_server(parts, Limits(max_requests=PLACES)) as (live, hold):
        alone = [heard(live.transcribe(audio, language="en")) for audio in RECORDINGS]
        tally, together = Tally(), threading.Barrier(CLIENTS)
        live.until_idle()
        hold.after(0)
        with ThreadPoolExecutor(CLIENTS) as pool:
            clients = [
                pool.submit(come_until_served, live, hold, client, together, tally)
                for client in range(CLIENTS)
            ]
            for number, client in enumerate(clients):
                assert client.result() == alone[number % len(RECORDINGS)], f"client {number}"
        live.until_idle()
        assert tally.most <= PLACES
        assert all(1 <= seconds <= 60 for seconds in tally.refusals)
        until(
            lambda: (
                live.metric("earshot_requests_rejected_total", reason="queue_full")
                == len(tally.refusals)
            ),
            "each is counted",
        )
