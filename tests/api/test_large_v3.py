"""A vocabulary like that of large-v3: a hundred languages, and every later token one further.

Nothing may count on where a special token stood in the models before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from service.text.languages import LANGUAGES
from service.text.tokenizer import WhisperTokenizer
from tests.api.live import Limits, LiveServer, noise, services_of, standing, wav
from tests.api.tiny import tiny_parts

SHORT, LONG = wav(noise(1.5)), wav(noise(5.0))
OLDER = [code for code in LANGUAGES if code != "yue"]


@pytest.fixture(scope="module")
def tokenizer(make_tokenizer: Callable[..., WhisperTokenizer]) -> WhisperTokenizer:
    return make_tokenizer(languages=tuple(LANGUAGES))


@pytest.fixture(scope="module")
def server(tokenizer: WhisperTokenizer) -> Iterator[LiveServer]:
    with LiveServer(services_of(tiny_parts(tokenizer), Limits())) as live:
        yield live


def test_cantonese_moves_every_token_after_the_languages(
    tokenizer: WhisperTokenizer, make_tokenizer: Callable[..., WhisperTokenizer]
) -> None:
    older = make_tokenizer(languages=OLDER)
    assert (len(tokenizer.languages), len(older.languages)) == (100, 99)
    assert (tokenizer.eot, tokenizer.sot) == (older.eot, older.sot)
    for name in ("translate", "transcribe", "sot_prev", "no_speech", "no_timestamps",
                 "timestamp_begin"):  # fmt: skip
        assert getattr(tokenizer, name) == getattr(older, name) + 1
    assert tokenizer.languages["yue"] == older.languages["su"] + 1 == older.translate


def test_one_of_a_hundred_languages_is_detected(live: LiveServer) -> None:
    answer = live.client.post("/detect-language", content=SHORT).json()
    assert set(answer["probabilities"]) == set(LANGUAGES)
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-6)
    pair = live.client.post(
        "/detect-language", content=SHORT, params={"languages": "yue,Chinese"}
    ).json()
    assert set(pair["probabilities"]) == {"yue", "zh"}
    both = answer["probabilities"]
    assert pair["probabilities"]["yue"] == pytest.approx(both["yue"] / (both["yue"] + both["zh"]))
    events = live.events(SHORT, languages="yue", temperature=0)
    assert events[-1]["language"] == "yue"


def test_task_and_language_reach_the_model(live: LiveServer) -> None:
    """Each of these changes one token of the prompt, and by that the probabilities."""
    heard = [
        tuple(token["logprob"] for token in standing(live.events(SHORT, temperature=0, **how)))
        for how in (
            {"language": "yue"},
            {"language": "cantonese"},
            {"language": "zh"},
            {"language": "yue", "task": "translate"},
            {"language": "yue", "initial_prompt": "Names"},
        )
    ]
    assert heard[0] == heard[1]
    assert len(set(heard)) == 4


def test_timestamps_are_told_in_seconds_of_the_recording(
    live: LiveServer, tokenizer: WhisperTokenizer
) -> None:
    events = live.events(LONG, language="yue", temperature=0)
    tokens = [event for event in events if event["type"] == "token"]
    timestamps = [token for token in tokens if "timestamp_s" in token]
    assert timestamps
    for token in tokens:
        assert ("timestamp_s" in token) == (token["token_id"] >= tokenizer.timestamp_begin)
        assert token["token_id"] not in tokenizer.control_tokens
    for window in {token["window"] for token in timestamps}:
        starts = {
            round(token["timestamp_s"] - 0.02 * (token["token_id"] - tokenizer.timestamp_begin), 2)
            for token in timestamps
            if token["window"] == window
        }
        assert len(starts) == 1, "a window begins at one time"
    said = live.events(LONG, language="yue", temperature=0, condition_on_previous_text=False)
    assert (
        events[-1]["usage"]["input_token_details"]["text_tokens"]
        > said[-1]["usage"]["input_token_details"]["text_tokens"]
    ), "later windows are told the text before them"
