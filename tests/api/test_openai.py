"""OpenAI's routes as plain HTTP: every field, every format, every refusal."""

from __future__ import annotations

import json

import httpx
import pytest
import srt
import webvtt

from tests.api.live import MODEL, LiveServer, assert_envelope, noise, standing, wav

SHORT = wav(noise(1.5))
LONG = wav(noise(7.0, seed=3))
PATH = "/v1/audio/transcriptions"
TRANSLATIONS = "/v1/audio/translations"
Fields = list[tuple[str, str]]


def post(live: LiveServer, *fields: tuple[str, str], audio: bytes = SHORT, path: str = PATH,
         model: str | None = "whisper-1") -> httpx.Response:  # fmt: skip
    named: Fields = [("model", model)] if model is not None else []
    parts = [(name, (None, value)) for name, value in [*named, *fields]]
    return live.client.post(path, files=[*parts, ("file", ("a.wav", audio))])


def test_json_is_the_text_and_what_it_cost(live: LiveServer) -> None:
    done = live.events(LONG, language="en")[-1]
    response = post(live, ("language", "en"), audio=LONG)
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {
        "text": done["text"],
        "usage": done["usage"],
        "languages": [{"code": "en"}],
    }


def test_verbose_json_has_the_segments(live: LiveServer) -> None:
    done = live.events(LONG, language="en")[-1]
    data = post(live, ("language", "en"), ("response_format", "verbose_json"), audio=LONG).json()
    assert list(data) == ["task", "language", "duration", "text", "segments", "usage"]
    assert (data["task"], data["language"], data["duration"]) == ("transcribe", "english", 7.0)
    assert data["text"] == done["text"]
    assert [(s["start"], s["end"], s["text"]) for s in data["segments"]] == [
        (s["start_s"], s["end_s"], s["text"]) for s in done["segments"]
    ]
    assert len(data["segments"]) > 1
    for segment in data["segments"]:
        assert set(segment) == {
            "id", "seek", "start", "end", "text", "tokens", "temperature", "avg_logprob",
            "compression_ratio", "no_speech_prob",
        }  # fmt: skip
        assert segment["seek"] <= 100 * segment["start"]


def test_words_have_times_of_their_own(live: LiveServer) -> None:
    own = live.events(LONG, language="en", word_timestamps=True)[-1]
    expected = [word for segment in own["segments"] for word in segment["words"]]
    assert expected
    verbose = [("language", "en"), ("response_format", "verbose_json")]
    for names, lists in (
        (["word"], {"words"}),
        (["segment"], {"segments"}),
        (["word", "segment"], {"words", "segments"}),
    ):
        wanted = [("timestamp_granularities[]", name) for name in names]
        data = post(live, *verbose, *wanted, audio=LONG).json()
        assert set(data) & {"words", "segments"} == lists
        if "words" in data:
            assert [(word["start"], word["end"]) for word in data["words"]] == [
                (word["start_s"], word["end_s"]) for word in expected
            ]
    streamed = post(live, *verbose, wanted[0], ("stream", "true"), ("fallback", "true"), audio=LONG)
    assert '"words":[{' in streamed.text


def test_texts_are_what_their_formats_say(live: LiveServer) -> None:
    done = live.events(LONG, language="en")[-1]
    answers = {
        form: post(live, ("language", "en"), ("response_format", form), audio=LONG)
        for form in ("text", "srt", "vtt", "tsv")
    }
    types = {form: answer.headers["content-type"] for form, answer in answers.items()}
    assert types == {
        "text": "text/plain; charset=utf-8",
        "srt": "application/x-subrip; charset=utf-8",
        "vtt": "text/vtt; charset=utf-8",
        "tsv": "text/tab-separated-values; charset=utf-8",
    }
    assert answers["text"].text == done["text"] + "\n"
    cues = list(srt.parse(answers["srt"].text))
    assert cues
    assert len(webvtt.from_string(answers["vtt"].text)) == len(cues)
    assert len(answers["tsv"].text.splitlines()) == 1 + len(done["segments"])


def test_cues_are_as_narrow_as_they_are_asked_to_be(live: LiveServer) -> None:
    layout = [("max_line_width", "10"), ("max_line_count", "1"), ("max_cue_seconds", "0.5")]
    answer = post(live, ("language", "en"), ("response_format", "srt"), *layout, audio=LONG)
    cues = list(srt.parse(answer.text))
    assert len(cues) > 3
    assert all("\n" not in cue.content for cue in cues)


def test_logprobs_are_those_of_the_tokens_that_stand(live: LiveServer) -> None:
    tokens = standing(live.events(LONG, language="en"))
    expected = [token["logprob"] for token in tokens if "timestamp_s" not in token]
    for name in ("include[]", "include"):
        data = post(live, ("language", "en"), (name, "logprobs"), audio=LONG).json()
        assert [entry["logprob"] for entry in data["logprobs"]] == expected
        said = b"".join(bytes(entry["bytes"]) for entry in data["logprobs"])
        assert _whole(said.decode("utf-8", errors="replace")) == _whole(data["text"])


def _whole(text: str) -> str:
    """Return the text without what a window's end may cut: parts of a character."""
    return text.replace("\ufffd", "").strip()


def test_a_translation_is_english(live: LiveServer) -> None:
    data = post(live, ("response_format", "verbose_json"), path=TRANSLATIONS).json()
    assert (data["task"], data["language"]) == ("translate", "english")
    done = live.events(SHORT, task="translate")[-1]
    assert data["text"] == done["text"]
    assert post(live, path=TRANSLATIONS).json()["text"] == done["text"]


def test_a_prompt_is_the_initial_prompt(live: LiveServer) -> None:
    own = live.events(SHORT, language="en", initial_prompt="Dr. Smith")[-1]
    data = post(live, ("language", "en"), ("prompt", "Dr. Smith")).json()
    assert data["usage"] == own["usage"]
    both = post(live, ("prompt", "a"), ("initial_prompt", "b"))
    assert "more than once" in assert_envelope(both, 400)["message"]


def test_the_language_is_one_of_those_that_are_named(live: LiveServer) -> None:
    for name in ("languages[]", "languages"):
        data = post(live, (name, "de"), (name, "ja")).json()
        assert data["languages"][0]["code"] in {"de", "ja"}
    assert post(live, ("languages[]", "ja")).json()["languages"] == [{"code": "ja"}]


def test_keywords_are_told_to_the_model(live: LiveServer) -> None:
    own = live.events(SHORT, language="en", hotwords="Earshot, Whisper", temperature=0)[-1]
    keywords = [("keywords[]", "Earshot"), ("keywords[]", "Whisper")]
    data = post(live, ("language", "en"), *keywords, ("fallback", "false")).json()
    assert data["usage"] == own["usage"]
    plain = post(live, ("language", "en"), ("fallback", "false")).json()
    assert data["usage"]["input_tokens"] > plain["usage"]["input_tokens"]


def test_temperature_0_is_the_models_own_ladder_unless_it_is_streamed(live: LiveServer) -> None:
    def temperatures(*fields: tuple[str, str]) -> set[float]:
        verbose = ("response_format", "verbose_json")
        data = post(live, ("language", "en"), verbose, *fields, audio=LONG).json()
        return {segment["temperature"] for segment in data["segments"]}

    ladder = temperatures()
    assert max(ladder) > 0, "what a random model says is not good enough at 0"
    assert temperatures(("temperature", "0")) == ladder
    assert temperatures(("fallback", "false")) == {0.0}
    assert temperatures(("temperature", "0.4")) == {0.4}
    assert min(temperatures(("temperature", "0.4"), ("fallback", "true"))) >= 0.4


def test_options_of_our_own_are_ordinary_parts(live: LiveServer) -> None:
    def text(seed: str) -> str:
        answer = post(live, ("language", "en"), ("temperature", "1"), ("seed", seed))
        heard: str = answer.json()["text"]
        return heard

    assert text("1") == text("1")
    assert text("1") != text("2")
    data = post(live, ("language", "en"), ("without_timestamps", "true")).json()
    assert data["usage"]["input_token_details"]["text_tokens"] == 4


REFUSED: list[tuple[Fields, str, str]] = [
    ([("language", "klingon")], "language", "klingon"),
    ([("language", "fr")], "language", "en, de, ja"),
    ([("languages[]", "en"), ("languages[]", "klingon")], "languages", "klingon"),
    ([("languages", "en"), ("language", "de")], "languages", "give one of them"),
    ([("keywords[]", "x" * 4001)], "keywords", "4000"),
    ([("keywords[]", "a"), ("hotwords", "b")], "keywords", "give one of them"),
    ([("temperature", "1.5")], "temperature", "less than or equal to 1"),
    ([("temperature", "hot")], "temperature", "hot"),
    ([("response_format", "xml")], "response_format", "'json', 'text', 'srt'"),
    ([("response_format", "diarized_json")], "response_format", "speakers"),
    ([("timestamp_granularities[]", "segment")], "timestamp_granularities", "verbose_json"),
    (
        [("response_format", "verbose_json"), ("timestamp_granularities[]", "phoneme")],
        "timestamp_granularities",
        "'word' or 'segment'",
    ),
    (
        [
            ("response_format", "verbose_json"),
            ("timestamp_granularities[]", "word"),
            ("without_timestamps", "true"),
        ],
        "timestamp_granularities",
        "without_timestamps",
    ),
    ([("include[]", "speakers")], "include", "logprobs"),
    ([("include[]", "logprobs"), ("response_format", "text")], "include", "json"),
    ([("chunking_strategy", "manual")], "chunking_strategy", "auto, or an object"),
    ([("chunking_strategy", "[" * 9000)], "chunking_strategy", "auto, or an object"),
    ([("chunking_strategy", '{"type":"client_vad"}')], "chunking_strategy", "server_vad"),
    ([("chunking_strategy[threshold]", "0.5")], "chunking_strategy", "required"),
    (
        [("chunking_strategy[type]", "server_vad"), ("chunking_strategy[threshold]", "2")],
        "chunking_strategy",
        "less than 1",
    ),
    (
        [("chunking_strategy[type]", "server_vad"), ("chunking_strategy[eagerness]", "low")],
        "chunking_strategy",
        "not permitted",
    ),
    ([("chunking_strategy[type]", "auto")] * 2, "chunking_strategy", "more than once"),
    ([("chunking_strategy[type]", "auto"), ("chunking_strategy", "auto")], "chunking_strategy",
     "more than once"),
    ([("chunking_strategy", "auto"), ("vad", "off")], "vad", "give one of them"),
    ([("known_speaker_names[]", "Ann")], "known_speaker_names", "speakers"),
    ([("known_speaker_references[]", "data:audio/wav;base64,AA")], "known_speaker_references",
     "speakers"),
    ([("stream", "perhaps")], "stream", "perhaps"),
    ([("stream", "true"), ("response_format", "srt")], "response_format", "streamed"),
    ([("fallback", "perhaps")], "fallback", "boolean"),
    ([("max_line_width", "20")], "max_line_width", "srt and vtt"),
    ([("max_line_width", "1"), ("response_format", "srt")], "max_line_width", "2"),
    ([("max_cue_seconds", "nan"), ("response_format", "srt")], "max_cue_seconds", "finite"),
    ([("prompt", "x" * 4001)], "prompt", "4000"),
    ([("seed[]", "0")], "seed[]", "is not an option"),
    ([("task", "translate")], "task", "is not an option"),
    ([("vad_filter", "true")], "vad_filter", "is not an option"),
    ([("language", "en"), ("language", "de")], "language", "more than once"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param", "part"), REFUSED)
def test_what_cannot_be_done_is_refused_by_name(
    live: LiveServer, fields: Fields, param: str, part: str
) -> None:
    error = assert_envelope(post(live, *fields), 400)
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert part in error["message"]


def test_a_model_has_to_be_named_and_served(live: LiveServer) -> None:
    assert post(live, model=MODEL).status_code == 200
    error = assert_envelope(post(live, model="gpt-4o-transcribe"), 404)
    assert (error["param"], error["code"]) == ("model", "model_not_found")
    error = assert_envelope(post(live, model=None), 400)
    assert (error["param"], error["code"]) == ("model", "missing_required_parameter")


@pytest.mark.parametrize(
    ("audio", "code"), [(b"", "invalid_audio"), (b"no audio at all", "invalid_audio")]
)
def test_what_is_no_audio_is_a_400(live: LiveServer, audio: bytes, code: str) -> None:
    error = assert_envelope(post(live, audio=audio), 400)
    assert (error["param"], error["code"]) == ("file", code)


def test_a_file_has_to_be_there(live: LiveServer) -> None:
    response = live.client.post(PATH, files={"model": (None, "whisper-1")})
    assert assert_envelope(response, 400)["param"] == "file"


@pytest.mark.parametrize(
    "content_type", ["audio/wav", "application/json", "application/x-www-form-urlencoded"]
)
def test_only_a_form_is_taken(live: LiveServer, content_type: str) -> None:
    headers = {"content-type": content_type}
    response = live.client.post(f"{PATH}?model=whisper-1", content=SHORT, headers=headers)
    error = assert_envelope(response, 400)
    assert error["code"] == "unsupported_content_type"
    assert "raw" not in error["message"]


def test_the_wrong_method_is_a_405(live: LiveServer) -> None:
    response = live.client.get(PATH)
    assert assert_envelope(response, 405)["code"] == "method_not_allowed"
    assert response.headers["allow"] == "POST"


def test_models_are_listed_by_id_and_alias(live: LiveServer) -> None:
    (model,) = live.client.get("/v1/models").json()["data"]
    assert (model["id"], model["object"], model["owned_by"]) == (MODEL, "model", "earshot")
    for name in (MODEL, "whisper-1"):
        assert live.client.get(f"/v1/models/{name}").json() == model
    error = assert_envelope(live.client.get("/v1/models/openai%2Fwhisper-tiny"), 404)
    assert error["code"] == "model_not_found"
    assert json.dumps("openai/whisper-tiny")[1:-1] in error["message"]
