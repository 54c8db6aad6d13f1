from __future__ import annotations

import pytest

from service.api.openai_options import parse_transcription
from service.audio.vad import SpeechBounds
from service.transcription.params import Vad

SAME = [
    [("chunking_strategy", '{"type": "server_vad", "threshold": 0.4, "prefix_padding_ms": 250}')],
    [
        ("chunking_strategy[type]", "server_vad"),
        ("chunking_strategy[threshold]", "0.4"),
        ("chunking_strategy[prefix_padding_ms]", "250"),
    ],
]


@pytest.mark.parametrize("pairs", SAME)
def test_a_strategy_comes_as_json_or_in_parts(pairs: list[tuple[str, str]]) -> None:
    params = parse_transcription([("model", "m"), *pairs]).params()
    assert params.vad is Vad.ON
    assert params.speech_bounds == SpeechBounds(0.4, 0.25, SpeechBounds().pause_s)


def test_auto_leaves_the_bounds_to_the_service() -> None:
    for stream in ("true", "false"):
        pairs = [("model", "m"), ("chunking_strategy", "auto"), ("stream", stream)]
        params = parse_transcription(pairs).params()
        assert (params.vad, params.speech_bounds) == (Vad.ON, SpeechBounds())
