from __future__ import annotations

import pytest

from service.api.schemas import TranscribeOptions, parse_options
from service.decoding.quality import Thresholds
from service.errors import InvalidRequest
from service.transcription.params import TranscriptionParams


def test_the_defaults_are_the_references_and_stream() -> None:
    options = parse_options([])
    assert options.stream
    assert options.params() == TranscriptionParams()
    assert options.params().temperatures == (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    assert options.params().thresholds == Thresholds(2.4, -1.0, 0.6)


def test_lists_have_commas_and_thresholds_can_be_none() -> None:
    options = parse_options(
        [
            ("temperature", "0, 0.5"),
            ("languages", "en,de"),
            ("clip_timestamps", "1,2.5"),
            ("logprob_threshold", "None"),
            ("no_speech_threshold", "0.3"),
            ("keywords", "Earshot"),
        ]
    )
    params = options.params()
    assert params.temperatures == (0.0, 0.5)
    assert (params.languages, params.clip_timestamps) == (("en", "de"), (1.0, 2.5))
    assert params.thresholds == Thresholds(2.4, None, 0.3)
    assert params.hotwords == "Earshot"


def test_values_come_as_text() -> None:
    options = parse_options(
        [("temperature", "0.25"), ("seed", "7"), ("stream", "false"), ("language", "de")]
    )
    assert (options.temperature, options.seed, options.stream) == ((0.25,), 7, False)
    assert options.params().language == "de"


@pytest.mark.parametrize(
    ("name", "value", "parts"),
    [
        ("temperature", "1.5", ("less than or equal to 1", "'1.5'")),
        ("temperature", "-0.1", ("greater than or equal to 0", "'-0.1'")),
        ("temperature", "nan", ("finite", "'nan'")),
        ("temperature", "inf", ("finite",)),
        ("temperature", "warm", ("valid number", "'warm'")),
        ("temperature", "", ("valid number",)),
        ("seed", "1.5", ("valid integer", "'1.5'")),
        ("seed", "-1", ("greater than or equal to 0",)),
        ("seed", "9" * 5000, ("integer",)),
        ("stream", "maybe", ("boolean", "'maybe'")),
        ("task", "sing", ("'transcribe' or 'translate'", "'sing'")),
        ("initial_prompt", "x" * 4001, ("4000",)),
    ],
)
def test_a_bad_value_is_named_with_its_limit(name: str, value: str, parts: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_options([(name, value)])
    assert caught.value.param == name
    assert caught.value.message.startswith(name)
    for expected in parts:
        assert expected in caught.value.message
    assert len(caught.value.message) < 300


def test_an_unknown_option_is_named() -> None:
    with pytest.raises(InvalidRequest, match="beam_sise is not an option") as caught:
        parse_options([("beam_sise", "5")])
    assert (caught.value.param, caught.value.code) == ("beam_sise", "unknown_parameter")
    for name in TranscribeOptions.model_fields:
        assert name in caught.value.message


def test_an_option_given_twice_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="more than once"):
        parse_options([("seed", "1"), ("seed", "1")])
