"""OpenAI's event stream: increments that add up, released as they become final."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from service.decoding.hypotheses import Candidates
from service.engine.types import Group, Sampled
from tests.api.gated import gated_server
from tests.api.live import (
    Limits,
    LiveServer,
    Parts,
    assert_envelope,
    noise,
    services_of,
    standing,
    stream_events,
    wav,
)
from tests.api.test_openai import PATH, SHORT, post
from tests.unit.transcription.scripted import ScriptedRunner

LONG = wav(noise(9.0, seed=3))


def events(body: str) -> list[dict[str, Any]]:
    """Return the data of each event, and check that nothing else but the end was sent."""
    blocks = body.split("\n\n")
    assert blocks[-2:] == ["data: [DONE]", ""]
    found = []
    for block in blocks[:-2]:
        assert block.startswith("data: {")
        found.append(json.loads(block.removeprefix("data: ")))
    return found


def test_deltas_add_up_to_the_text(live: LiveServer) -> None:
    own = live.events(LONG, language="en", temperature=0)[-1]
    response = post(live, ("language", "en"), ("stream", "true"), audio=LONG)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    *deltas, done = events(response.text)
    assert len(deltas) > 3
    assert {tuple(delta) for delta in deltas} == {("type", "delta")}
    assert done["type"] == "transcript.text.done"
    assert "".join(delta["delta"] for delta in deltas) == done["text"] == own["text"]
    assert done["usage"] == own["usage"]
    assert (done["task"], done["language"], done["duration"]) == ("transcribe", "english", 9.0)
    assert [segment["text"] for segment in done["segments"]] == [
        segment["text"] for segment in own["segments"]
    ]


def test_a_stream_with_fallback_adds_up_too(live: LiveServer) -> None:
    fields = [("language", "en"), ("fallback", "true")]
    whole = post(live, *fields, audio=LONG).json()["text"]
    *deltas, done = events(post(live, *fields, ("stream", "true"), audio=LONG).text)
    assert "".join(delta["delta"] for delta in deltas) == done["text"] == whole


def test_without_timestamps_each_token_is_a_delta(live: LiveServer) -> None:
    own = live.events(SHORT, language="en", without_timestamps=True, temperature=0)
    texts = [token["text"] for token in standing(own) if token["text"].strip()]
    response = post(live, ("language", "en"), ("stream", "true"), ("without_timestamps", "true"))
    *deltas, done = events(response.text)
    assert len(deltas) >= len(texts) - 1
    assert "".join(delta["delta"] for delta in deltas) == done["text"] == own[-1]["text"]


def test_logprobs_come_with_the_deltas_and_at_the_end(live: LiveServer) -> None:
    fields = [("language", "en"), ("include[]", "logprobs"), ("fallback", "false")]
    whole = post(live, *fields, audio=LONG).json()["logprobs"]
    *deltas, done = events(post(live, *fields, ("stream", "true"), audio=LONG).text)
    assert done["logprobs"] == whole
    streamed = [entry for delta in deltas for entry in delta["logprobs"]]
    assert streamed == whole


@pytest.mark.parametrize("form", ["json", "text", "verbose_json"])
def test_every_format_without_cues_can_be_streamed(live: LiveServer, form: str) -> None:
    response = post(live, ("stream", "true"), ("response_format", form))
    assert events(response.text)[-1]["type"] == "transcript.text.done"


def test_a_translation_can_be_streamed(live: LiveServer) -> None:
    done = events(post(live, ("stream", "true"), path="/v1/audio/translations").text)[-1]
    assert (done["task"], done["language"]) == ("translate", "english")


def test_a_stream_that_is_refused_is_a_status(live: LiveServer) -> None:
    assert_envelope(post(live, ("stream", "true"), audio=b"none"), 400)


def test_a_delta_comes_before_the_window_ends(parts: Parts) -> None:
    with (
        gated_server(parts, Limits()) as (live, gate),
        live.client.stream(
            "POST",
            PATH,
            files={
                "model": (None, "whisper-1"),
                "stream": (None, "true"),
                "language": (None, "en"),
                "without_timestamps": (None, "true"),
                "file": SHORT,
            },
        ) as response,
    ):
        arriving = stream_events(response)
        assert next(arriving)["type"] == "transcript.text.delta"
        assert not gate.is_set()
        gate.set()


def test_an_error_after_the_first_byte_is_the_last_event(parts: Parts) -> None:
    class Failing(ScriptedRunner):
        def decode(self, groups: Sequence[Group]) -> list[Sampled | Candidates]:
            return [replace(sampled, failed=True) for sampled in super().decode(groups)]

    eot = parts.tokenizer.eot
    failing = replace(parts, runner=lambda: Failing(lambda w, p: [5, 5, eot], rows=1), rows=1)
    with LiveServer(services_of(failing, Limits())) as live:
        response = post(live, ("stream", "true"), ("language", "en"))
        assert response.status_code == 200
        assert "[DONE]" not in response.text
        error = json.loads(response.text.strip().split("\n\n")[-1].removeprefix("data: "))
        assert error["type"] == "error"
        assert error["error"]["code"] == "decoding_failed"
        assert set(error["error"]) == {"message", "type", "param", "code"}
