from __future__ import annotations

from collections.abc import Callable

import pytest

from service.text.tokenizer import WhisperTokenizer
from tests.api.live import Limits, LiveServer, assert_envelope, noise, services_of, wav
from tests.api.tiny import tiny_parts

SHORT = wav(noise(1.5))


def test_the_language_comes_with_the_probability_of_each(live: LiveServer) -> None:
    raw = live.client.post("/detect-language", content=SHORT, headers={"content-type": "audio/wav"})
    assert raw.status_code == 200, raw.text
    answer = raw.json()
    probabilities = answer["probabilities"]
    assert set(probabilities) == {"en", "de", "ja"}
    assert sum(probabilities.values()) == pytest.approx(1, abs=1e-6)
    assert answer["language"] == max(probabilities, key=probabilities.get)
    assert answer["probability"] == probabilities[answer["language"]]
    assert answer["language_name"] in {"english", "german", "japanese"}
    assert answer["duration_s"] == 1.5
    form = live.client.post("/detect-language", files={"file": ("a.wav", SHORT)})
    assert form.json() == answer
    done = live.events(SHORT)[-1]
    assert done["language"] == answer["language"]
    assert done["language_probability"] == pytest.approx(answer["probability"], abs=1e-6)


def test_candidates_share_the_probability(live: LiveServer) -> None:
    answer = live.client.post(
        "/detect-language", params={"languages": "German,ja"}, files={"file": ("a.wav", SHORT)}
    ).json()
    assert set(answer["probabilities"]) == {"de", "ja"}
    assert sum(answer["probabilities"].values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("options", "param"),
    [({"languages": "fr"}, "languages"), ({"task": "translate"}, "task"), ({"x": "1"}, "x")],
)
def test_what_detection_cannot_do_is_named(
    live: LiveServer, options: dict[str, str], param: str
) -> None:
    response = live.client.post("/detect-language", params=options, content=SHORT)
    assert assert_envelope(response, 400)["param"] == param


def test_a_model_that_knows_only_english_detects_nothing(
    make_tokenizer: Callable[..., WhisperTokenizer],
) -> None:
    parts = tiny_parts(make_tokenizer(languages=()))
    with LiveServer(services_of(parts, Limits())) as live:
        response = live.client.post("/detect-language", content=SHORT)
        assert "English only" in assert_envelope(response, 400)["message"]
        for options in ({"language": "de"}, {"task": "translate"}, {"languages": "en,de"}):
            response = live.transcribe(SHORT, **options)
            assert "English only" in assert_envelope(response, 400)["message"]
        assert live.events(SHORT, languages="en", temperature=0)[-1]["language"] == "en"
        live.until_idle()


def test_words_have_times_within_their_segments(live: LiveServer) -> None:
    events = live.events(SHORT, language="en", word_timestamps=True, temperature=0)
    segments = events[-1]["segments"]
    assert any(segment["words"] for segment in segments)
    for segment in segments:
        times = [t for word in segment["words"] for t in (word["start_s"], word["end_s"])]
        assert times == sorted(times)
        assert all(0 <= word["probability"] <= 1 for word in segment["words"])
