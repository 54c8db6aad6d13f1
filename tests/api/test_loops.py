"""A model that says the same again and again: bounded, and told for what it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import pytest
import torch

from service.engine.runner import ModelRunner
from service.engine.types import Runner
from service.model.whisper import DecoderBlock
from service.text.tokenizer import WhisperTokenizer
from tests.api.live import Limits, LiveServer, Parts, noise, services_of, standing, until, wav
from tests.api.tiny import tiny_parts

MAX_TOKENS = 32
"""Half of the decoder's positions."""
LONG = wav(noise(7.0))


def deaf(make_runner: Callable[[], Runner]) -> Callable[[], Runner]:
    """Let a model hang on the last token alone: it neither hears nor remembers, and so it loops."""

    def make() -> Runner:
        runner = cast("ModelRunner", make_runner())
        decoder = runner.model.decoder
        with torch.no_grad():
            decoder.positional_embedding.zero_()
            decoder.token_embedding.weight[runner.special.eot :].zero_()  # text is likelier
            for block in decoder.blocks:
                for part in (
                    cast("DecoderBlock", block).attn,
                    cast("DecoderBlock", block).cross_attn,
                ):
                    part.out.weight.zero_()
        return runner

    return make


@pytest.fixture(scope="module")
def looping(make_tokenizer: Callable[..., WhisperTokenizer]) -> Parts:
    parts = tiny_parts(make_tokenizer())
    suppressed = (*parts.facts.suppress_tokens, parts.tokenizer.eot)  # it never comes to an end
    facts = replace(parts.facts, suppress_tokens=suppressed)
    return replace(parts, runner=deaf(parts.runner), facts=facts)


@pytest.fixture(scope="module")
def server(looping: Parts) -> Iterator[LiveServer]:
    with LiveServer(services_of(looping, Limits())) as live:
        yield live


def by_attempt(events: list[dict[str, Any]]) -> dict[tuple[int, int], list[int]]:
    """Return the tokens of each attempt at each window."""
    found: dict[tuple[int, int], list[int]] = {}
    for event in events:
        if event["type"] == "token":
            found.setdefault((event["window"], event["attempt"]), []).append(event["token_id"])
    return found


@pytest.mark.parametrize("without_timestamps", [True, False])
def test_a_loop_ends_is_tried_otherwise_and_the_recording_goes_on(
    live: LiveServer, without_timestamps: bool
) -> None:
    before = live.metric("earshot_fallbacks_total", reason="repetition")
    events = live.events(LONG, language="en", without_timestamps=without_timestamps)
    attempts = by_attempt(events)
    assert all(len(tokens) <= MAX_TOKENS for tokens in attempts.values())
    assert {window for window, _ in attempts} >= {0, 1, 2, 3}
    assert all(attempt <= 5 for _, attempt in attempts)
    assert len({window for window, _ in attempts}) <= 40
    done = events[-1]
    assert done["type"] == "done"
    assert "".join(token["text"] for token in standing(events)).strip() == done["text"]
    if without_timestamps:
        tokens = attempts[0, 0]
        assert len(set(tokens)) < len(tokens) / 2, "a model that does not loop proves nothing"
        reasons = [event["reason"] for event in events if event["type"] == "retract"]
        assert "fallback" in reasons
        assert max(attempt for _, attempt in attempts) >= 1
        until(
            lambda: live.metric("earshot_fallbacks_total", reason="repetition") > before,
            "loops are counted",
        )


def test_a_loop_that_may_not_be_tried_otherwise_stands_and_shows(live: LiveServer) -> None:
    options = {"temperature": 0, "without_timestamps": True, "condition_on_previous_text": False}
    done = live.events(LONG, language="en", **options)[-1]
    assert done["type"] == "done"
    assert [s["attempts"] for s in done["segments"]] == [1] * 4
    assert all(s["compression_ratio"] > 2.4 for s in done["segments"])
    assert done["usage"]["output_tokens"] == 4 * MAX_TOKENS


@pytest.mark.parametrize(
    "options",
    [
        {"beam_size": "4", "temperature": "0"},
        {"best_of": "3", "temperature": "0.4"},
        {"word_timestamps": "true", "hallucination_silence_threshold": "1"},
        {"condition_on_previous_text": "true", "initial_prompt": "la la la la"},
    ],
    ids=["beams", "best of", "words", "prompt"],
)
def test_loops_are_bounded_however_they_are_searched(
    live: LiveServer, options: dict[str, str]
) -> None:
    events = live.events(LONG, language="en", **options)
    assert events[-1]["type"] == "done"
    assert all(len(tokens) <= MAX_TOKENS for tokens in by_attempt(events).values())


def test_a_neighbour_of_a_loop_is_what_it_is_alone(live: LiveServer) -> None:
    alone = live.events(wav(noise(1.0)), language="en")[-1]
    with live.client.stream(
        "POST", "/transcribe", content=LONG, params={"language": "en"},
        headers={"content-type": "audio/wav"},
    ) as response:  # fmt: skip
        next(response.iter_lines())
        beside = live.events(wav(noise(1.0)), language="en")[-1]
    assert (beside["text"], beside["segments"]) == (alone["text"], alone["segments"])
