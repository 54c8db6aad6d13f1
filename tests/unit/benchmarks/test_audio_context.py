from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from benchmarks.audio_context import errors_in, measure, read_clips, table_of
from tests.api.live import noise, wav


@pytest.mark.parametrize(
    ("found", "errors"),
    [
        ("Nine, two; EIGHT!", 0),
        ("nine two", 1),
        ("nine to eight", 1),
        ("nine two eight eight", 1),
        ("", 3),
    ],
)
def test_words_count_and_not_how_they_are_written(found: str, errors: int) -> None:
    assert errors_in("nine two eight", found) == errors


def test_every_clip_is_asked_in_every_context(tmp_path: Path) -> None:
    (tmp_path / "noise.wav").write_bytes(wav(noise(1.0)))
    line = json.dumps({"audio": "noise.wav", "text": "nothing at all"})
    (tmp_path / "clips.jsonl").write_text(f"{line}\n{line}\n", encoding="utf-8")

    clips = read_clips(tmp_path / "clips.jsonl")
    contexts = asyncio.run(measure("service/builtin", clips, [30, 5]))
    assert [context.seconds for context in contexts] == [30, 5]
    assert all(len(context.took_s) == 2 for context in contexts)
    assert contexts[0].errors == contexts[1].errors == [3, 3], "the built-in model has no full ones"
    assert table_of(contexts, clips).row_count == 2
