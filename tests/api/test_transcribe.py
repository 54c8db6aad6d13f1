from __future__ import annotations

import httpx
import pytest

from tests.api.live import MODEL, LiveServer, events_of, noise, standing, until, wav

SHORT = wav(noise(1.5))
LONG = wav(noise(7.0, seed=3))


def test_events_come_in_order_and_add_up(live: LiveServer) -> None:
    events = live.events(LONG, language="en")
    kinds = [event["type"] for event in events]
    assert kinds[0] == "started"
    assert kinds[-1] == "done"
    assert set(kinds) <= {"started", "token", "retract", "segment", "done"}
    started, done = events[0], events[-1]
    assert (started["model"], started["duration_s"]) == (MODEL, 7.0)
    assert started["id"] == done["id"]
    tokens = standing(events)
    assert tokens
    assert "".join(token["text"] for token in tokens).strip() == done["text"]
    assert done["segments"] == [event for event in events if event["type"] == "segment"]
    assert done["usage"]["output_tokens"] >= len(tokens)
    assert all(token["logprob"] <= 0 for token in tokens)
    assert [t["index"] for t in events if t["type"] == "token"] == list(range(kinds.count("token")))


def test_the_stream_cannot_be_buffered_cached_or_numbered(live: LiveServer) -> None:
    response = live.transcribe(SHORT)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-accel-buffering"] == "no"
    lines = response.text.split("\n")
    assert {line.split(":")[0] for line in lines if line} <= {"event", "data", ""}


def test_one_json_object_says_the_same_as_the_stream(live: LiveServer) -> None:
    done = live.events(LONG, language="en")[-1]
    response = live.transcribe(LONG, language="en", stream=False)
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    for name in ("type", "model", "text", "language", "duration_s", "segments", "usage"):
        assert answer[name] == done[name]


def test_form_and_raw_body_say_the_same(live: LiveServer) -> None:
    raw = live.events(SHORT, language="de", task="translate")
    response = live.client.post(
        "/transcribe",
        files={"file": ("../../etc/passwd", SHORT, "text/plain")},
        data={"language": "german", "task": "translate"},
    )
    form = events_of(response.text)
    assert [e["token_id"] for e in form if e["type"] == "token"] == [
        e["token_id"] for e in raw if e["type"] == "token"
    ]
    assert form[-1]["language"] == "de"


def test_options_of_a_form_may_stand_in_the_query_too(live: LiveServer) -> None:
    response = live.client.post(
        "/transcribe", params={"stream": "false"}, files={"file": SHORT}, data={"language": "ja"}
    )
    assert response.json()["language"] == "ja"


def test_a_body_without_a_length_is_read(live: LiveServer) -> None:
    def chunks() -> list[bytes]:
        return [SHORT[start : start + 1000] for start in range(0, len(SHORT), 1000)]

    response = live.client.post("/transcribe", content=iter(chunks()), params={"stream": "false"})
    assert response.status_code == 200
    assert response.request.headers["transfer-encoding"] == "chunked"
    assert response.json()["duration_s"] == 1.5


def test_a_long_recording_is_decoded_window_after_window(live: LiveServer) -> None:
    events = live.events(LONG, language="en", without_timestamps=True)
    windows = [event["window"] for event in events if event["type"] == "token"]
    assert windows == sorted(windows)
    assert set(windows) == {0, 1, 2, 3}
    assert not any(event["type"] == "retract" for event in events)
    assert events[-1]["usage"]["input_token_details"]["audio_tokens"] == 350


def test_a_long_recording_with_timestamps_leaves_nothing_out(live: LiveServer) -> None:
    events = live.events(LONG, language="en")
    done = events[-1]
    tokens = standing(events)
    assert "".join(token["text"] for token in tokens).strip() == done["text"]
    seconds = [token["timestamp_s"] for token in tokens if "timestamp_s" in token]
    assert seconds
    assert done["usage"]["input_token_details"]["audio_tokens"] >= 350, "every frame was heard"
    windows = [event["window"] for event in events if event["type"] == "token"]
    assert windows == sorted(windows)
    assert len(set(windows)) == windows[-1] + 1 >= 4


def test_the_language_is_detected_when_it_is_not_given(live: LiveServer) -> None:
    events = live.events(SHORT)
    (detected,) = [event for event in events if event["type"] == "language"]
    assert detected["language"] in {"en", "de", "ja"}
    assert 1 / 3 <= detected["probability"] <= 1
    assert events[-1]["language"] == detected["language"]
    assert events.index(detected) < next(
        place for place, event in enumerate(events) if event["type"] == "token"
    )
    given = live.events(SHORT, language=detected["language"])
    assert [e["token_id"] for e in standing(given)] == [e["token_id"] for e in standing(events)]


def test_sampling_depends_on_the_seed_alone(live: LiveServer) -> None:
    def tokens(seed: int) -> list[tuple[int, float]]:
        events = live.events(SHORT, language="en", temperature=1.0, seed=seed)
        return [(e["token_id"], e["logprob"]) for e in events if e["type"] == "token"]

    assert tokens(1) == tokens(1)
    assert tokens(1) != tokens(2)


def test_an_initial_prompt_changes_what_is_heard(live: LiveServer) -> None:
    plain = live.events(SHORT, language="en")
    prompted = live.events(SHORT, language="en", initial_prompt="Dr. Smith")
    assert (
        prompted[-1]["usage"]["input_token_details"]["text_tokens"]
        > (plain[-1]["usage"]["input_token_details"]["text_tokens"])
    )
    assert [e["logprob"] for e in standing(plain)] != [e["logprob"] for e in standing(prompted)]


def test_a_failed_window_is_decoded_again_and_its_tokens_are_retracted(live: LiveServer) -> None:
    def counted() -> float:
        reasons = ("logprob", "repetition")
        return sum(live.metric("earshot_fallbacks_total", reason=reason) for reason in reasons)

    before = counted()
    events = live.events(SHORT, language="en", temperature="0,0.5", logprob_threshold="-0.001")
    n_failed = [e["reason"] for e in events if e["type"] == "retract"].count("fallback")
    assert n_failed >= 1
    assert {event["attempt"] for event in events if event["type"] == "token"} == {0, 1}
    done = events[-1]
    assert "".join(token["text"] for token in standing(events)).strip() == done["text"]
    assert [(s["temperature"], s["attempts"]) for s in done["segments"]] == [(0.5, 2)] * len(
        done["segments"]
    )
    until(
        lambda: counted() == before + n_failed,
        "what failed is counted",
    )
    again = live.events(SHORT, language="en", temperature="0,0.5", logprob_threshold="-0.001")
    assert [e["logprob"] for e in standing(again)] == [e["logprob"] for e in standing(events)]


def test_a_window_is_told_the_text_before_it_unless_that_is_not_wanted(live: LiveServer) -> None:
    def prompts(**options: object) -> int:
        done = live.events(LONG, language="en", temperature=0, **options)[-1]
        return int(done["usage"]["input_token_details"]["text_tokens"])

    assert prompts() > prompts(condition_on_previous_text=False)
    assert prompts(hotwords="Earshot", condition_on_previous_text=False) == prompts(
        keywords="Earshot", condition_on_previous_text=False
    )


def test_only_clips_are_heard(live: LiveServer) -> None:
    done = live.events(LONG, language="en", clip_timestamps="1,2,3.5,4")[-1]
    assert all(
        1 <= s["start_s"] <= s["end_s"] <= 2 or 3.5 <= s["start_s"] <= s["end_s"] <= 4
        for s in done["segments"]
    )
    assert done["usage"]["input_token_details"]["audio_tokens"] == 75


def test_the_language_is_one_of_those_that_are_possible(live: LiveServer) -> None:
    for code in ("de", "ja"):
        assert live.events(SHORT, languages=code)[-1]["language"] == code
    events = live.events(SHORT, languages="ja,de")
    (detected,) = [event for event in events if event["type"] == "language"]
    assert detected["language"] in {"ja", "de"}
    assert events[-1]["language_probability"] == detected["probability"] >= 0.5


def test_each_window_may_have_a_language_of_its_own(live: LiveServer) -> None:
    events = live.events(LONG, detect_language_per_window=True, without_timestamps=True)
    detected = [event for event in events if event["type"] == "language"]
    assert [event["window"] for event in detected] == [0, 1, 2, 3]
    spoken = {event["window"]: event["language"] for event in detected}
    assert all(s["language"] == spoken[s["window"]] for s in events[-1]["segments"])


@pytest.mark.parametrize("offered", ["abc-123", "trace:7/9"])
def test_the_clients_request_id_is_kept(live: LiveServer, offered: str) -> None:
    response = live.client.post(
        "/transcribe", content=SHORT, headers={"x-request-id": offered, "content-type": "audio/wav"}
    )
    assert response.headers["x-request-id"] == offered
    assert events_of(response.text)[0]["id"] == offered


@pytest.mark.parametrize("offered", ["a b", "x" * 129, 'a"b'])
def test_a_request_id_that_could_harm_a_log_is_replaced(live: LiveServer, offered: str) -> None:
    response = live.client.get("/livez", headers={"x-request-id": offered})
    assert response.headers["x-request-id"] != offered
    assert len(response.headers["x-request-id"]) == 32


def test_the_models_name_and_alias_are_taken(live: LiveServer) -> None:
    for name in (MODEL, "whisper-1"):
        assert live.events(SHORT, model=name)[-1]["model"] == MODEL


def test_the_schema_describes_form_options_and_events(live: LiveServer) -> None:
    schema = live.client.get("/openapi.json").json()
    operation = schema["paths"]["/transcribe"]["post"]
    form = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert form["required"] == ["file"]
    assert {"language", "task", "temperature", "seed", "stream"} <= set(form["properties"])
    assert "retract" in str(operation["responses"]["200"])


def test_a_connection_serves_one_request_after_another(live: LiveServer) -> None:
    with httpx.Client(base_url=live.url, timeout=60, trust_env=False) as client:
        for _ in range(3):
            response = client.post("/transcribe", content=SHORT, params={"stream": "false"})
            assert response.status_code == 200
            assert "connection" not in response.headers
