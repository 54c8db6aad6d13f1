from __future__ import annotations

import numpy as np
import pytest

from tests.api.live import LiveServer, Samples, assert_envelope, events_of, float_wav, noise, wav

SHORT = wav(noise(0.5))


@pytest.mark.parametrize(
    ("audio", "code"),
    [
        (b"", "invalid_audio"),
        (b"this is no recording, it is a sentence", "invalid_audio"),
        (b"\x00" * 4096, "invalid_audio"),
        (SHORT[:20], "invalid_audio"),
        (SHORT[:44], "invalid_audio"),
        (wav(np.zeros(0, np.float32)), "invalid_audio"),
        (float_wav(np.array([0.1, np.nan, 0.2], np.float32)), "invalid_audio"),
        (float_wav(np.array([0.1, np.inf, 0.2], np.float32)), "invalid_audio"),
        (b"fLaC" + SHORT, "invalid_audio"),
        (b"OggS" + bytes(100), "invalid_audio"),
        (b"#EXTM3U\nhttp://localhost/secret\n", "invalid_audio"),
    ],
    ids=[
        "empty", "text", "zeros", "half a header", "header only", "0 samples", "NaN", "infinity",
        "not really FLAC", "not really Ogg", "a playlist",
    ],
)  # fmt: skip
def test_what_is_no_audio_is_a_400(live: LiveServer, audio: bytes, code: str) -> None:
    error = assert_envelope(live.transcribe(audio), 400)
    assert (error["type"], error["code"]) == ("invalid_request_error", code)
    assert error["param"] == "file"


@pytest.mark.parametrize(
    "samples",
    [np.zeros(1, np.float32), np.ones(1, np.float32), np.zeros(16_000, np.float32)],
    ids=["one silent sample", "one loud sample", "silence"],
)
def test_the_shortest_and_the_quietest_are_transcribed(live: LiveServer, samples: Samples) -> None:
    events = live.events(wav(samples), language="en")
    assert events[-1]["type"] == "done"
    assert events[-1]["duration_s"] == len(samples) / 16_000


def test_a_truncated_file_gives_what_is_there_or_a_400(live: LiveServer) -> None:
    whole = wav(noise(1.0))
    response = live.transcribe(whole[: len(whole) // 2], language="en")
    if response.status_code == 200:
        done = events_of(response.text)[-1]
        assert done["type"] == "done"
        assert 0.4 < done["duration_s"] < 0.6
    else:
        assert_envelope(response, 400)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000, 192_000])
def test_every_sample_rate_is_brought_to_16_khz(live: LiveServer, rate: int) -> None:
    done = live.events(wav(noise(0.5, rate=rate), rate), language="en")[-1]
    assert done["type"] == "done"
    assert done["duration_s"] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("channels", range(1, 9))
def test_every_number_of_channels_is_mixed(live: LiveServer, channels: int) -> None:
    audio = wav(noise(0.5), channels=channels)
    mono = live.events(SHORT, language="en")
    mixed = live.events(audio, language="en")
    assert mixed[-1]["duration_s"] == 0.5
    assert mixed[-1]["text"] == mono[-1]["text"]


@pytest.mark.parametrize(("rate", "channels"), [(4_000, 1), (384_000, 1), (16_000, 9)])
def test_rates_and_channels_beyond_are_a_400(live: LiveServer, rate: int, channels: int) -> None:
    error = assert_envelope(live.transcribe(wav(noise(0.1, rate=rate), rate, channels)), 400)
    assert error["code"] == "invalid_audio"


@pytest.mark.parametrize(
    ("options", "param", "part"),
    [
        ({"language": "klingon"}, "language", "klingon"),
        ({"language": "fr"}, "language", "en, de, ja"),
        ({"task": "sing"}, "task", "transcribe"),
        ({"temperature": "hot"}, "temperature", "hot"),
        ({"temperature": "1.01"}, "temperature", "less than or equal to 1"),
        ({"temperature": "nan"}, "temperature", "finite"),
        ({"seed": "-1"}, "seed", "greater than or equal to 0"),
        ({"stream": "perhaps"}, "stream", "perhaps"),
        ({"beam_sise": "5"}, "beam_sise", "is not an option"),
        ({"temperature": "0,0.2,0.2"}, "temperature", "higher than the one before"),
        ({"temperature": "0.2,0"}, "temperature", "0.2, 0"),
        ({"temperature": ""}, "temperature", "valid number"),
        ({"temperature": ",".join(["0"] * 11)}, "temperature", "at most 10 items"),
        ({"language": "en", "languages": "en,de"}, "languages", "give one of them"),
        (
            {"language": "en", "detect_language_per_window": "true"},
            "detect_language_per_window",
            "give one of them",
        ),
        ({"languages": "en,fr"}, "languages", "'fr', it has: en, de, ja"),
        ({"languages": "en,klingon"}, "languages", "klingon"),
        ({"initial_prompt": "x" * 4001}, "initial_prompt", "at most 4000 characters"),
        ({"hotwords": "a", "keywords": "b"}, "keywords", "the same thing"),
        ({"carry_initial_prompt": "true"}, "carry_initial_prompt", "needs an initial_prompt"),
        ({"clip_timestamps": "3,2"}, "clip_timestamps", "2 after 3"),
        ({"clip_timestamps": "-1,2"}, "clip_timestamps", "greater than or equal to 0"),
        ({"clip_timestamps": "0,inf"}, "clip_timestamps", "finite"),
        ({"beam_size": "0"}, "beam_size", "possible is 1 to 16"),
        ({"beam_size": "5", "temperature": "0.2"}, "beam_size", "temperature is 0.2"),
        ({"best_of": "5", "temperature": "0"}, "best_of", "temperature is 0"),
        ({"best_of": "17"}, "best_of", "17"),
        ({"patience": "2"}, "patience", "needs a beam_size"),
        ({"beam_size": "2", "patience": "0.1"}, "patience", "0.1"),
        ({"length_penalty": "1.5"}, "length_penalty", "possible is 0 to 1"),
        (
            {"word_timestamps": "true", "without_timestamps": "true"},
            "word_timestamps",
            "contradict",
        ),
        (
            {"hallucination_silence_threshold": "2"},
            "hallucination_silence_threshold",
            "needs word_timestamps",
        ),
        ({"vad": "perhaps"}, "vad", "'off', 'on' or 'auto'"),
        ({"logprob_threshold": "low"}, "logprob_threshold", "low"),
    ],
)
def test_a_bad_option_is_named_in_query_and_form(
    live: LiveServer, options: dict[str, str], param: str, part: str
) -> None:
    raw = live.client.post("/transcribe", params=options, content=SHORT)
    form = live.client.post("/transcribe", data=options, files={"file": SHORT})
    for response in (raw, form):
        error = assert_envelope(response, 400)
        assert error["param"] == param
        assert part in error["message"]
        assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "options",
    [
        {"initial_prompt": "names and words " * 250},
        {"hotwords": "names and words " * 250},
        {"initial_prompt": "x" * 4000, "hotwords": "y" * 4000, "carry_initial_prompt": "true"},
    ],
    ids=["prompt", "hot words", "both"],
)
def test_a_prompt_longer_than_the_decoder_is_cut_as_the_reference_cuts_it(
    live: LiveServer, options: dict[str, str]
) -> None:
    """Half of the positions, one less, are for what stands before: 31 of the 64 of this model."""
    done = live.client.post(
        "/transcribe",
        data={"language": "en", "temperature": "0", "stream": "false", **options},
        files={"file": SHORT},
    ).json()
    assert done["type"] == "done"
    n_prompt = 1 + 31 + 3  # <|startofprev|>, the text, the three tokens of the start
    n_windows = len({segment["window"] for segment in done["segments"]}) or 1
    assert n_windows == 1
    assert done["usage"]["input_token_details"]["text_tokens"] == n_prompt


def test_an_option_given_twice_is_refused(live: LiveServer) -> None:
    response = live.client.post("/transcribe?seed=1&seed=2", content=SHORT)
    assert assert_envelope(response, 400)["param"] == "seed"
    response = live.client.post("/transcribe?seed=1", data={"seed": "1"}, files={"file": SHORT})
    assert assert_envelope(response, 400)["param"] == "seed"


def test_a_form_without_a_file_part_is_refused(live: LiveServer) -> None:
    response = live.client.post("/transcribe", files={"audio_data": ("a.wav", b"x")})
    assert assert_envelope(response, 400)["param"] == "file"
    response = live.client.post("/transcribe", files={"other": (None, "x")})
    assert assert_envelope(response, 400)["param"] == "file"


def test_a_form_with_two_files_is_refused(live: LiveServer) -> None:
    response = live.client.post("/transcribe", files=[("file", SHORT), ("file", SHORT)])
    assert assert_envelope(response, 400)["param"] == "file"


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/json", "application/x-www-form-urlencoded", "multipart/form-data"],
)
def test_a_wrong_content_type_is_refused(live: LiveServer, content_type: str) -> None:
    response = live.client.post(
        "/transcribe", content=SHORT, headers={"content-type": content_type}
    )
    assert "multipart/form-data" in assert_envelope(response, 400)["message"]


def test_a_compressed_body_is_refused(live: LiveServer) -> None:
    response = live.client.post("/transcribe", content=SHORT, headers={"content-encoding": "gzip"})
    assert "gzip" in assert_envelope(response, 400)["message"]


def test_another_model_is_a_404(live: LiveServer) -> None:
    response = live.transcribe(SHORT, model="gpt-4o-transcribe")
    error = assert_envelope(response, 404)
    assert (error["param"], error["code"]) == ("model", "model_not_found")


def test_a_wrong_path_is_a_404(live: LiveServer) -> None:
    for path in ("/transcribe/", "/nowhere"):
        error = assert_envelope(live.client.post(path, content=SHORT), 404)
        assert error["code"] == "not_found"


def test_an_upload_to_the_page_is_a_405(live: LiveServer) -> None:
    error = assert_envelope(live.client.post("/", content=SHORT), 405)
    assert error["code"] == "method_not_allowed"


def test_a_wrong_method_is_a_405_that_names_the_right_one(live: LiveServer) -> None:
    response = live.client.get("/transcribe")
    error = assert_envelope(response, 405)
    assert error["code"] == "method_not_allowed"
    assert response.headers["allow"] == "POST"


def test_the_neighbours_go_on_beside_bad_input(live: LiveServer) -> None:
    alone = live.events(SHORT, language="en")[-1]["text"]
    for bad in (b"", b"text", SHORT[:30]):
        assert live.transcribe(bad).status_code == 400
        assert live.events(SHORT, language="en")[-1]["text"] == alone
