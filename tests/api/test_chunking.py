"""`chunking=parallel` over a live server with a real model and a stand-in for the detector."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from service.audio.vad import SpeechModels
from service.text.tokenizer import WhisperTokenizer
from tests.api.gated import Hold, held_server
from tests.api.live import (
    RATE,
    Limits,
    LiveServer,
    Parts,
    Samples,
    assert_envelope,
    noise,
    services_of,
    standing,
    stream_events,
    until,
    wav,
)
from tests.api.tiny import tiny_parts
from tests.unit.transcription.test_chunks import cut_by


class Audible:
    """Takes whatever is no silence for speech."""

    def reset(self) -> None:
        pass

    def hear(self, samples: Samples) -> Samples:
        return np.array(samples.max(axis=1) > 0.01, np.float32)


@pytest.fixture(scope="module")
def audible(make_tokenizer: Callable[..., WhisperTokenizer]) -> Parts:
    return replace(tiny_parts(make_tokenizer(), rows=8), speech_models=SpeechModels(Audible))


@pytest.fixture(scope="module")
def server(audible: Parts) -> Iterator[LiveServer]:
    with LiveServer(services_of(audible, Limits(max_audio_s=600))) as live:
        yield live


def spoken(n_parts: int) -> bytes:
    """Return 1.4 s of sound and 0.6 s of silence, again and again, no two alike."""
    gap = np.zeros(round(0.6 * RATE), np.float32)
    parts = [part for n in range(n_parts) for part in (noise(1.4, seed=n), gap)]
    return wav(np.concatenate(parts))


SPOKEN = spoken(6)


def figures(tokens: Sequence[dict[str, Any]]) -> list[tuple[int, float, str]]:
    return [(token["token_id"], token["logprob"], token["text"]) for token in tokens]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": "0.8", "seed": "3"},
        {"temperature": "0,0.5", "logprob_threshold": "-0.001", "initial_prompt": "Names"},
        {"temperature": "0", "beam_size": "3", "word_timestamps": "true"},
        {"temperature": "0.6", "best_of": "3", "without_timestamps": "true"},
    ],
    ids=["greedy", "sampled", "fallback", "beams and words", "best of 3"],
)
def test_each_part_has_the_bits_of_the_same_clip_alone(
    live: LiveServer, options: dict[str, str]
) -> None:
    options = {"language": "en", **options}
    events = live.events(SPOKEN, chunking="parallel", **options)
    done = events[-1]
    assert [s["id"] for s in done["segments"]] == list(range(len(done["segments"])))
    indices = [event["index"] for event in events if event["type"] == "token"]
    assert indices == list(range(len(indices)))
    assert "".join(token["text"] for token in standing(events)).strip() == done["text"]
    together = figures([event for event in events if event["type"] == "token"])
    n_parts = 0
    for start, end in parts_of(events):
        alone = live.events(
            SPOKEN, vad="on", condition_on_previous_text=False,
            clip_timestamps=f"{start / 100},{end / 100}", **options,
        )  # fmt: skip
        tokens = figures([event for event in alone if event["type"] == "token"])
        assert together[: len(tokens)] == tokens
        assert tokens
        del together[: len(tokens)]
        n_parts += 1
    assert not together
    assert n_parts >= 6
    # The streamed answer and the other one are the same.
    whole = live.transcribe(SPOKEN, chunking="parallel", stream=False, **options).json()
    assert (whole["text"], whole["segments"]) == (done["text"], done["segments"])


def parts_of(events: Sequence[dict[str, Any]]) -> list[tuple[int, int]]:
    """Return where the parts lie that were cut, in frames: each lies around its sound."""
    assert events[-1]["duration_s"] == 12
    return cut_by(Audible(), decoded(), max_frames=200)


def decoded() -> Samples:
    return np.frombuffer(SPOKEN[44:], "<i2").astype(np.float32) / np.float32(32768)


def test_parts_overtake_one_another_only_in_the_engine(live: LiveServer) -> None:
    events = live.events(SPOKEN, chunking="parallel", language="en")
    windows = [event["window"] for event in events if event["type"] in {"token", "segment"}]
    assert windows == sorted(windows)
    assert events[0]["type"] == "started"
    assert events[-1]["coverage"] is not None


def test_the_first_part_says_the_language_of_all(live: LiveServer) -> None:
    events = live.events(SPOKEN, chunking="parallel")
    (detected,) = [event for event in events if event["type"] == "language"]
    assert detected["window"] == 0
    assert events[-1]["language"] == detected["language"]
    assert {s["language"] for s in events[-1]["segments"]} <= {detected["language"]}


def test_who_leaves_frees_all_windows(audible: Parts) -> None:
    """Slots, rows, permits, audio."""
    with held_server(audible, Limits()) as (live, hold):
        hold.after(8)
        with live.client.stream(
            "POST", "/transcribe", content=spoken(29), headers={"content-type": "audio/wav"},
            params={"chunking": "parallel", "language": "en"},
        ) as response:  # fmt: skip
            next(event for event in stream_events(response) if event["type"] == "token")
        until(
            lambda: live.metric("earshot_requests_cancelled_total", stage="transcribe") == 1,
            "it is counted",
        )
        hold.release()
        live.until_idle()


def test_others_are_served_beside_a_long_one(audible: Parts) -> None:
    """A long recording in parts holds at most half of the slots; the others find theirs free."""
    short = wav(noise(1.0))
    with (
        ThreadPoolExecutor(4) as pool,
        held_server(audible, Limits(max_audio_s=600)) as (live, hold),
    ):
        alone = live.events(short, language="en")[-1]["text"]
        hold.after(0)
        long = pool.submit(live.events, spoken(29), chunking="parallel", language="en")
        until(lambda: let_one_step_pass(hold) and slots_used(live) == 4, "half of them are taken")
        others = [pool.submit(live.events, short, language="en") for _ in range(3)]
        until(lambda: live.engine.stats()["requests"] == 4, "all are there")
        until(lambda: let_one_step_pass(hold) and slots_used(live) == 7, "the others have theirs")
        assert not long.done()
        hold.release()
        assert [other.result()[-1]["text"] for other in others] == [alone] * 3
        assert len(long.result()[-1]["text"]) > len(alone)


def slots_used(live: LiveServer) -> int:
    return int(live.engine.stats()["window_slots_used"] or 0)


def let_one_step_pass(hold: Hold) -> bool:
    """Let the step that waits pass, if one does."""
    if hold.is_holding:
        hold.after(1)
    return True


def test_parts_are_for_openais_routes_too(live: LiveServer) -> None:
    done = live.events(SPOKEN, chunking="parallel", language="en")[-1]
    form = {"model": "whisper-1", "language": "en", "chunking": "parallel"}
    file = {"file": ("a.wav", SPOKEN)}
    verbose = {**form, "response_format": "verbose_json"}
    answer = live.client.post("/v1/audio/transcriptions", data=verbose, files=file).json()
    assert answer["text"] == done["text"]
    assert [s["text"] for s in answer["segments"]] == [s["text"] for s in done["segments"]]
    auto = live.client.post(
        "/v1/audio/transcriptions", data={**form, "chunking_strategy": "auto"}, files=file
    )
    assert auto.json()["text"] == done["text"]
    streamed = live.client.post(
        "/v1/audio/transcriptions", data={**form, "stream": "true", "fallback": "true"}, files=file
    )
    events = [
        json.loads(line.removeprefix("data: "))
        for line in streamed.text.splitlines()
        if line.startswith("data: {")
    ]
    assert "".join(e["delta"] for e in events[:-1]) == events[-1]["text"] == done["text"]
    for route in ("transcriptions", "translations"):
        response = live.client.post(f"/v1/audio/{route}", data={**form, "vad": "off"}, files=file)
        assert assert_envelope(response, 400)["param"] == "vad"


@pytest.mark.parametrize(
    ("options", "param", "part"),
    [
        ({"chunking": "auto"}, "chunking", "'sequential' or 'parallel'"),
        ({"chunking": "parallel", "vad": "off"}, "vad", "contradict"),
        (
            {"chunking": "parallel", "condition_on_previous_text": "true"},
            "condition_on_previous_text",
            "contradict",
        ),
    ],
)
def test_what_contradicts_parts_is_named(
    live: LiveServer, options: dict[str, str], param: str, part: str
) -> None:
    error = assert_envelope(live.transcribe(SPOKEN, **options), 400)
    assert error["param"] == param
    assert part in error["message"]


def test_a_service_without_a_detector_says_so(
    make_tokenizer: Callable[..., WhisperTokenizer],
) -> None:
    with LiveServer(services_of(tiny_parts(make_tokenizer()), Limits())) as deaf:
        error = assert_envelope(deaf.transcribe(SPOKEN, chunking="parallel"), 400)
    assert (error["param"], error["type"]) == ("chunking", "invalid_request_error")
