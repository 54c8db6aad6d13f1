"""A request whose tokenizer raises fails alone; a dead engine ends every stream with its error."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx
import pytest
import torch

from service.engine.runner import ModelRunner
from service.text.tokenizer import WhisperTokenizer
from tests.api.gated import Hold, held
from tests.api.live import (
    DEADLINE_S,
    Limits,
    LiveServer,
    Parts,
    assert_envelope,
    events_of,
    noise,
    services_of,
    stream_events,
    until,
    wav,
)
from tests.api.tiny import tiny_parts

Heard = list[tuple[int, float]]
RECORDINGS = [wav(noise(1.0 + 0.3 * seed, seed=seed)) for seed in range(4)]
CULPRIT = 2
SAMPLED: dict[str, object] = {"temperature": 1.0, "seed": 5}
"""How the culprit is decoded, so that some of its tokens are nobody else's."""
PROMPT = "a prompt that the tokenizer cannot take"


def heard(events: list[dict[str, Any]]) -> Heard:
    return [(e["token_id"], e["logprob"]) for e in events if e["type"] == "token"]


def ask(live: LiveServer, number: int, **options: object) -> httpx.Response:
    how = SAMPLED if number == CULPRIT else {}
    return live.transcribe(RECORDINGS[number], language="en", **how, **options)


def all_at_once(live: LiveServer, culprit: dict[str, object]) -> list[httpx.Response]:
    def one(number: int) -> httpx.Response:
        return ask(live, number, **(culprit if number == CULPRIT else {}))

    with ThreadPoolExecutor(len(RECORDINGS)) as pool:
        return list(pool.map(one, range(len(RECORDINGS))))


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("where", ["token_bytes", "encode"])
def test_a_tokenizer_that_raises_fails_its_own_request(
    make_tokenizer: Callable[..., WhisperTokenizer], where: str, stream: bool
) -> None:
    tokenizer = make_tokenizer()
    poison: set[int] = set()
    token_bytes, encode = tokenizer.token_bytes, tokenizer.encode

    def faulty_token_bytes(token_id: int) -> bytes:
        if token_id in poison:
            raise KeyError(f"token {token_id}")
        return token_bytes(token_id)

    def faulty_encode(text: str) -> Any:
        if PROMPT in text:
            raise ValueError("no tokens for this")
        return encode(text)

    tokenizer.token_bytes = faulty_token_bytes  # type: ignore[method-assign]
    tokenizer.encode = faulty_encode  # type: ignore[method-assign]
    options: dict[str, object] = {"stream": stream}
    if where == "encode":
        options["initial_prompt"] = PROMPT
    with LiveServer(services_of(tiny_parts(tokenizer), Limits())) as live:
        alone = [heard(events_of(ask(live, n).text)) for n in range(len(RECORDINGS))]
        others = {t for n, each in enumerate(alone) if n != CULPRIT for t, _ in each}
        if where == "token_bytes":
            poison |= {token for token, _ in alone[CULPRIT]} - others
            assert poison, "every token of the culprit is somebody else's too"
        responses = all_at_once(live, options)
        for number, response in enumerate(responses):
            if number == CULPRIT:
                check_failure(response, alone[CULPRIT], stream=stream)
            else:
                assert heard(events_of(response.text)) == alone[number]
        live.until_idle()
        poison.clear()
        assert heard(events_of(ask(live, CULPRIT).text)) == alone[CULPRIT]
        until(
            lambda: live.metric("earshot_request_failures_total", reason="internal_error") == 1,
            "it is counted",
        )


def check_failure(response: httpx.Response, alone: Heard, *, stream: bool) -> None:
    if not stream:
        assert assert_envelope(response, 500)["code"] == "internal_error"
        return
    events = events_of(response.text)
    assert events[-1]["type"] == "error"
    assert events[-1]["error"]["code"] == "internal_error"
    assert heard(events) == alone[: len(heard(events))]


def dying(parts: Parts, lost: threading.Event) -> Parts:
    """Return parts whose device is gone once it is lost."""

    def runner_of() -> ModelRunner:
        runner = parts.runner()
        assert isinstance(runner, ModelRunner)
        decode = runner.model.decode

        def faulty(*args: Any, **how: Any) -> Any:
            if lost.is_set():
                raise torch.AcceleratorError("CUDA error: an illegal memory access")
            return decode(*args, **how)

        runner.model.decode = faulty  # type: ignore[method-assign]
        return runner

    return replace(parts, runner=runner_of)


def test_a_dead_engine_ends_every_stream_with_its_error_event(
    make_tokenizer: Callable[..., WhisperTokenizer],
) -> None:
    """Streams that run and streams that are queued, one answer as JSON, and one upload."""
    lost, hold = threading.Event(), Hold()
    parts = held(dying(tiny_parts(make_tokenizer(), rows=2), lost), hold)
    audio = wav(noise(55.0))
    n_streams = 6
    begun = threading.Semaphore(0)

    def listen(live: LiveServer) -> dict[str, Any]:
        with live.client.stream("POST", "/transcribe?language=en", content=audio) as response:
            last: dict[str, Any] = {}
            for last in stream_events(response):
                if last["type"] == "started":
                    begun.release()
            return last

    with (
        LiveServer(services_of(parts, Limits())) as live,
        ThreadPoolExecutor(n_streams + 1) as pool,
        socket.create_connection(("127.0.0.1", live.port), timeout=DEADLINE_S) as uploading,
    ):
        hold.after(8)
        uploading.sendall(
            b"POST /transcribe HTTP/1.1\r\nhost: x\r\ncontent-type: audio/wav\r\n"
            b"content-length: %d\r\n\r\n" % len(audio) + audio[:1000]
        )
        streams = [pool.submit(listen, live) for _ in range(n_streams)]
        whole = pool.submit(live.transcribe, audio, language="en", stream=False)
        for _ in range(n_streams):
            assert begun.acquire(timeout=DEADLINE_S)
        until(lambda: live.engine.stats()["requests"] == n_streams + 2, "all are there")
        until(lambda: live.engine.stats()["decoder_rows_used"] != 0, "some are decoded")
        lost.set()
        hold.release()
        codes = [stream.result()["error"]["code"] for stream in streams]
        assert codes == ["engine_dead"] * n_streams
        assert assert_envelope(whole.result(), 503)["code"] == "engine_dead"
        assert live.client.get("/health").status_code == 503
        assert live.client.get("/readyz").json()["status"] == "dead"
        uploading.sendall(audio[1000:])
        answer = b""
        while b"engine_dead" not in answer:
            piece = uploading.recv(65_536)
            assert piece, answer
            answer += piece
        until(lambda: live.engine.stats()["requests"] == 0, "every permit is back")
