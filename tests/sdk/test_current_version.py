"""The official client as it is today, in strict mode: every call, format and error."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.audio import Transcription, TranscriptionVerbose

from tests.api.live import (
    DEADLINE_S,
    MODEL,
    Limits,
    LiveServer,
    Parts,
    noise,
    services_of,
    wav,
)

KEPT: dict[str, object] = {"vad": "off", "no_speech_threshold": "none"}
"""What a random model says is kept, though it is no speech."""
SHORT = wav(noise(1.5))
LONG = wav(noise(7.0, seed=3))


def client_of(live: LiveServer, max_retries: int = 0, timeout: float = DEADLINE_S) -> openai.OpenAI:
    return openai.OpenAI(
        base_url=f"{live.url}/v1",
        api_key="a-key",
        max_retries=max_retries,
        timeout=timeout,
        _strict_response_validation=True,
    )


@pytest.fixture
def client(live: LiveServer) -> Iterator[openai.OpenAI]:
    with client_of(live) as client:
        yield client


@pytest.fixture
def create(client: openai.OpenAI) -> Any:
    """`client.audio.transcriptions.create`, for tests that pass it what its types forbid."""
    return client.audio.transcriptions.create


def test_a_file_may_be_anything_that_the_client_takes(
    live: LiveServer, client: openai.OpenAI, tmp_path: Path
) -> None:
    text = live.events(SHORT)[-1]["text"]
    path = tmp_path / "a.wav"
    path.write_bytes(SHORT)
    named = ("speech.wav", SHORT)
    typed = ("speech", io.BytesIO(SHORT), "application/octet-stream")
    with path.open("rb") as opened:
        for file in (opened, path, SHORT, io.BytesIO(SHORT), named, typed):
            answer = client.audio.transcriptions.create(model="whisper-1", file=file)
            assert isinstance(answer, Transcription)
            assert answer.text == text
            assert answer.usage is not None
            assert answer.usage.type == "tokens"


def test_verbose_json_is_the_clients_own_type(live: LiveServer, client: openai.OpenAI) -> None:
    own = live.events(LONG, language="en")[-1]
    answer = client.audio.transcriptions.create(
        model="whisper-1",
        file=LONG,
        language="en",
        prompt="",
        temperature=0,
        response_format="verbose_json",
        timestamp_granularities=["segment"],
    )
    assert isinstance(answer, TranscriptionVerbose)
    assert (answer.text, answer.language, answer.duration) == (own["text"], "english", 7.0)
    assert answer.usage is not None
    assert answer.usage.seconds == 7.0
    assert answer.segments is not None
    for segment, expected in zip(answer.segments, own["segments"], strict=True):
        assert segment.tokens == expected["tokens"]
        assert segment.avg_logprob == expected["avg_logprob"]
        assert None not in segment.model_dump().values()


def test_texts_come_as_text(live: LiveServer, client: openai.OpenAI) -> None:
    text = live.events(SHORT, **KEPT)[-1]["text"]
    create: Any = partial(client.audio.transcriptions.create, model=MODEL, extra_body=KEPT)
    assert create(file=SHORT, response_format="text") == text + "\n"
    assert create(file=SHORT, response_format="srt").startswith("1\n00:00:0")
    assert create(file=SHORT, response_format="vtt").startswith("WEBVTT\n\n00:00:0")


def test_logprobs_are_typed(create: Any) -> None:
    answer = create(model=MODEL, file=SHORT, include=["logprobs"], extra_body=KEPT)
    assert answer.logprobs
    said = b"".join(bytes(map(int, entry.bytes)) for entry in answer.logprobs)
    whole = [text.replace("\ufffd", "") for text in (said.decode(errors="replace"), answer.text)]
    assert whole[0].strip() == whole[1].strip(), "but for characters that a window cuts"
    assert all(entry.logprob <= 0 for entry in answer.logprobs)


def test_translations_are_english(live: LiveServer, client: openai.OpenAI) -> None:
    translations = client.audio.translations.create
    text = live.events(SHORT, task="translate")[-1]["text"]
    with pytest.warns(DeprecationWarning, match="deprecated"):  # by OpenAI, not by us
        plain = translations(model=MODEL, file=SHORT)
    assert plain.text == text
    with pytest.warns(DeprecationWarning, match="deprecated"):
        verbose = translations(model=MODEL, file=SHORT, response_format="verbose_json")
    assert (verbose.text, verbose.language, verbose.duration) == (text, "english", 1.5)


def test_a_stream_has_typed_events_that_add_up(live: LiveServer, client: openai.OpenAI) -> None:
    own = live.events(LONG, language="en", temperature=0)[-1]
    events = list(
        client.audio.transcriptions.create(
            model=MODEL, file=LONG, language="en", stream=True, include=["logprobs"]
        )
    )
    text, logprobs = "", []
    for event in events[:-1]:
        assert event.type == "transcript.text.delta"
        text += event.delta
        logprobs += event.logprobs or []
    done = events[-1]
    assert done.type == "transcript.text.done"
    assert text == done.text == own["text"]
    assert done.usage is not None
    assert done.usage.total_tokens == own["usage"]["total_tokens"]
    assert [entry.logprob for entry in done.logprobs or []] == [e.logprob for e in logprobs]
    extra = done.model_extra or {}
    assert extra["duration"] == 7.0
    assert len(extra["segments"]) == len(own["segments"])


def test_the_asynchronous_client_does_the_same(live: LiveServer) -> None:
    text = live.events(SHORT)[-1]["text"]

    async def scenario() -> None:
        async with openai.AsyncOpenAI(
            base_url=f"{live.url}/v1", api_key="a-key", _strict_response_validation=True
        ) as client:
            create = client.audio.transcriptions.create
            assert (await create(model=MODEL, file=SHORT)).text == text
            verbose = await create(model=MODEL, file=SHORT, response_format="verbose_json")
            assert verbose.text == text
            assert await create(model=MODEL, file=SHORT, response_format="text") == text + "\n"
            stream = await create(
                model=MODEL, file=SHORT, stream=True, extra_body={"fallback": True}
            )
            deltas = [
                event.delta async for event in stream if event.type == "transcript.text.delta"
            ]
            assert "".join(deltas) == text
            assert (await client.models.retrieve(MODEL)).id == MODEL

    asyncio.run(scenario())


def test_a_model_with_a_slash_in_its_name_is_found(parts: Parts) -> None:
    with (
        LiveServer(services_of(parts, Limits(api={"model_id": "a/b"}))) as live,
        client_of(live) as client,
    ):
        assert client.models.retrieve("a/b").id == "a/b"
        assert [model.id for model in client.models.list()] == ["a/b"]
        assert client.audio.transcriptions.create(model="a/b", file=SHORT).usage


@pytest.mark.parametrize(
    ("options", "error", "param", "code"),
    [
        ({"file": b"no audio"}, openai.BadRequestError, "file", "invalid_audio"),
        ({"file": b""}, openai.BadRequestError, "file", "invalid_audio"),
        ({"language": "klingon"}, openai.BadRequestError, "language", "invalid_value"),
        ({"temperature": 2}, openai.BadRequestError, "temperature", "invalid_value"),
        ({"response_format": "xml"}, openai.BadRequestError, "response_format", "invalid_value"),
        (
            {"response_format": "diarized_json"},
            openai.BadRequestError,
            "response_format",
            "invalid_value",
        ),
        (
            {"timestamp_granularities": ["word"]},
            openai.BadRequestError,
            "timestamp_granularities",
            "invalid_value",
        ),
        (
            {"known_speaker_names": ["Ann"]},
            openai.BadRequestError,
            "known_speaker_names",
            "invalid_value",
        ),
        (
            {"extra_body": {"beam_sise": 5}},
            openai.BadRequestError,
            "beam_sise",
            "unknown_parameter",
        ),
        ({"model": "gpt-4o-transcribe"}, openai.NotFoundError, "model", "model_not_found"),
    ],
)
def test_what_is_wrong_is_the_clients_exception(
    create: Any, options: dict[str, Any], error: type[openai.APIStatusError], param: str, code: str
) -> None:
    for stream in ({}, {"stream": True}):
        with pytest.raises(error) as caught:
            create(**{"model": MODEL, "file": SHORT} | options | stream)
        assert type(caught.value) is error
        assert (caught.value.param, caught.value.code) == (param, code)
        assert caught.value.type == "invalid_request_error"
        assert caught.value.request_id


def test_a_body_that_is_too_large_is_a_413(create: Any) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        create(model=MODEL, file=bytes(2_100_000))
    assert (caught.value.status_code, caught.value.code) == (413, "payload_too_large")


def test_a_request_id_is_the_clients_own_where_it_has_one(create: Any) -> None:
    answer = create(model=MODEL, file=SHORT, extra_headers={"x-request-id": "mine-7"})
    assert answer._request_id == "mine-7"
