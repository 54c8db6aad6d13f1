"""Requests of every kind, good and bad, to one service on the loopback interface.

Each kind says what it met with; what it may not meet with is noted as a surprise. A transcript is
compared with what the same recording gave when nothing else ran, to the last bit. Knows nothing
about the process that serves.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx

from benchmarks import rude
from benchmarks.recordings import Recording

HANG_S = 180.0
"""No request takes as long as this, whatever the load."""
REFUSED = frozenset({"429"})

Json = dict[str, Any]
Heard = list[tuple[int, float]]


class Ask(Protocol):
    """One kind of request."""

    def __call__(self, traffic: Traffic, client: httpx.AsyncClient) -> Awaitable[str]:
        """Send one, and say what came of it."""


@dataclass(slots=True)
class Traffic:
    """What is sent, and what came of it.

    Attributes:
        url, port: of the service.
        recordings: what is transcribed.
        chance: decides what is sent when.
        heard: of each recording, when nothing else ran.
        outcomes: (kind, what came of it), counted.
        surprises: what should not have come, in words.
    """

    url: str
    port: int
    recordings: Sequence[Recording]
    chance: random.Random
    heard: dict[str, Heard] = field(default_factory=dict)
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    surprises: Counter[str] = field(default_factory=Counter)

    async def learn(self) -> None:
        """Hear every recording alone."""
        async with httpx.AsyncClient(base_url=self.url, timeout=HANG_S) as client:
            for recording in self.recordings:
                self.heard[recording.name] = await transcript(client, recording.data)

    def any(self) -> Recording:
        """Return one of the recordings; a long one is rare."""
        *usual, rare = self.recordings
        return rare if self.chance.random() < 0.05 else self.chance.choice(usual)

    async def send(self, client: httpx.AsyncClient) -> None:
        """Send a request of some kind, and note what came of it."""
        kind, (ask, allowed) = self.chance.choices(list(KINDS.items()), list(WEIGHTS.values()))[0]
        try:
            async with asyncio.timeout(HANG_S):
                outcome = await ask(self, client)
        except TimeoutError:
            outcome = f"nothing within {HANG_S:g} s"
        except (httpx.TransportError, OSError) as error:
            outcome = type(error).__name__
        self.outcomes[kind, outcome] += 1
        if outcome not in allowed | REFUSED:
            self.surprises[f"{kind}: {outcome}"] += 1


async def events(response: httpx.Response) -> AsyncGenerator[Json, None]:
    """Yield the events of a stream as they come."""
    async for line in response.aiter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


async def transcript(client: httpx.AsyncClient, data: bytes) -> Heard:
    """Return the tokens of a recording that stand, with their log-probabilities.

    Raises:
        httpx.HTTPStatusError: if it is refused.
        ConnectionError: if its stream does not end with `done`.
    """
    tokens: dict[int, tuple[int, float]] = {}
    kind = ""
    async with client.stream("POST", "/transcribe", content=data) as response:
        response.raise_for_status()
        async for event in events(response):
            kind = event["type"]
            if kind == "token":
                tokens[event["index"]] = (event["token_id"], event["logprob"])
            elif kind == "retract":
                tokens = {at: token for at, token in tokens.items() if at < event["from_index"]}
    if kind != "done":
        raise ConnectionError(f"the stream ended with {kind!r}")
    return list(tokens.values())


async def stream(traffic: Traffic, client: httpx.AsyncClient) -> str:
    """Hear a recording to its end."""
    recording = traffic.any()
    try:
        heard = await transcript(client, recording.data)
    except httpx.HTTPStatusError as error:
        return str(error.response.status_code)
    return "done" if heard == traffic.heard[recording.name] else f"{recording.name} differs"


async def whole(traffic: Traffic, client: httpx.AsyncClient) -> str:
    """Ask for JSON, the recording in a form under a name that is a path."""
    files = {"file": ("../../etc/passwd", traffic.any().data)}
    response = await client.post("/transcribe", files=files, data={"stream": "false"})
    return str(response.status_code)


async def leave(traffic: Traffic, client: httpx.AsyncClient) -> str:
    """Leave after some of the events, or before the first one."""
    wanted = traffic.chance.randrange(8)
    data = traffic.any().data
    async with client.stream("POST", "/transcribe", content=data) as response:
        if response.status_code != httpx.codes.OK:
            return str(response.status_code)
        async with aclosing(events(response)) as heard:
            while wanted and await anext(heard, None) is not None:
                wanted -= 1
    return "left"


async def hurry(traffic: Traffic, client: httpx.AsyncClient) -> str:
    """Allow a time in which nothing can be done."""
    headers = {"x-request-timeout": "0.02"}
    options = {"stream": traffic.chance.choice(["true", "false"])}
    response = await client.post(
        "/transcribe", content=traffic.any().data, headers=headers, params=options
    )
    if '"deadline_exceeded"' in response.text:
        return "deadline exceeded"
    return str(response.status_code)


async def bad_audio(traffic: Traffic, client: httpx.AsyncClient) -> str:
    """Send what is no audio, or damaged."""
    data = rude.damaged(traffic.any().data, traffic.chance)
    response = await client.post("/transcribe?stream=false", content=data)
    return str(response.status_code)


async def bad_form(traffic: Traffic, client: httpx.AsyncClient) -> str:
    """Send a form that cannot be served as it stands."""
    form = traffic.chance.choice(rude.FORMS)(traffic.any().data)
    # Made in one piece: who takes seconds over 3000 small writes is cut off, as it should be.
    request = client.build_request("POST", "/transcribe", **form)
    response = await client.post("/transcribe", content=request.read(), headers=request.headers)
    return str(response.status_code)


async def too_large(traffic: Traffic, client: httpx.AsyncClient) -> str:
    """Send more than is taken, with or without saying how much it is."""
    body: Any = bytes(rude.TOO_MANY_BYTES)
    if traffic.chance.random() < 0.5:
        body = rude.in_pieces(body)
    response = await client.post("/transcribe", content=body)
    return str(response.status_code)


async def probe(traffic: Traffic, client: httpx.AsyncClient) -> str:
    """Ask how it is."""
    path = traffic.chance.choice(["/livez", "/readyz", "/metrics", "/v1/models", "/nowhere"])
    return str((await client.get(path)).status_code)


def by_hand(speak: Callable[[rude.Connection, bytes, random.Random], Awaitable[str]]) -> Ask:
    """Return a kind that has a connection of its own and speaks HTTP as it likes."""

    async def ask(traffic: Traffic, client: httpx.AsyncClient) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", traffic.port)
        try:
            return await speak(rude.Connection(reader, writer), traffic.any().data, traffic.chance)
        finally:
            writer.transport.abort()

    return ask


GONE = frozenset({"closed", "left"})
KINDS: dict[str, tuple[Ask, frozenset[str]]] = {
    "stream": (stream, frozenset({"done"})),
    "json": (whole, frozenset({"200"})),
    "leave": (leave, frozenset({"left"})),
    "leave in the upload": (by_hand(rude.leave_in_upload), GONE),
    "leave unanswered": (by_hand(rude.leave_unanswered), GONE),
    "leave json": (by_hand(rude.leave_json), GONE),
    "stop reading": (by_hand(rude.stop_reading), GONE),
    "say nothing": (by_hand(rude.say_nothing), GONE),
    "trickle a head": (by_hand(rude.trickle_head), GONE | {"ConnectionResetError"}),
    "trickle a body": (by_hand(rude.trickle_body), frozenset({"408"})),
    "lie about the length": (by_hand(rude.lie_about_length), GONE | {"200", "400"}),
    "hurry": (hurry, frozenset({"deadline exceeded", "200"})),
    "bad audio": (bad_audio, frozenset({"200", "400"})),
    "bad form": (bad_form, frozenset({"400", "404", "413"})),
    "too large": (too_large, frozenset({"413"})),
    "probe": (probe, frozenset({"200", "404"})),
}
WEIGHTS = dict.fromkeys(KINDS, 2.0) | {
    "stream": 6.0, "bad audio": 8.0, "bad form": 6.0, "leave": 6.0, "leave in the upload": 6.0,
    "leave unanswered": 4.0, "probe": 4.0, "stop reading": 0.5, "say nothing": 0.5,
    "trickle a head": 0.5, "trickle a body": 0.5,
}  # fmt: skip
"""How often each is sent; those that take seconds by design are rare."""
