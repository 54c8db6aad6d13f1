"""Comments on a silent stream, as the official client takes them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai

from tests.api.gated import gated_server
from tests.api.live import MODEL, Limits, Parts, noise, until, wav

SHORT = wav(noise(1.5))


class CommentCounter(httpx.HTTPTransport):
    """Counts the comments that come while a stream is silent."""

    comments = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        assert isinstance(response.stream, httpx.SyncByteStream)
        response.stream = _Counted(self, response.stream)
        return response


class _Counted(httpx.SyncByteStream):
    def __init__(self, counter: CommentCounter, stream: httpx.SyncByteStream) -> None:
        self._counter, self._stream = counter, stream

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._stream:
            self._counter.comments += piece.count(b": keep-alive")
            yield piece

    def close(self) -> None:
        self._stream.close()


def test_comments_on_a_silent_stream_are_no_events(parts: Parts) -> None:
    limits = Limits(api={"keepalive_s": 0.02})
    counter = CommentCounter()
    transport: Any = httpx.Client(transport=counter)  # its types ask for a fork of httpx
    with (
        gated_server(parts, limits) as (live, gate),
        ThreadPoolExecutor(1) as pool,
        openai.OpenAI(base_url=f"{live.url}/v1", api_key="k", http_client=transport) as client,
    ):
        create: Any = client.audio.transcriptions.create
        stream = create(model=MODEL, file=SHORT, language="en", stream=True)
        reading = pool.submit(lambda: [event.type for event in stream])
        until(lambda: counter.comments >= 3, "comments come")
        gate.set()
        assert set(reading.result()) == {"transcript.text.delta", "transcript.text.done"}
