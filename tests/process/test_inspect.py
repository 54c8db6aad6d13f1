"""`earshot inspect`, for people and for machines."""

from __future__ import annotations

import json
from pathlib import Path

from tests.process.running import earshot


def test_a_person_sees_dimensions_parameters_and_tensors(random_model: Path) -> None:
    ended = earshot("inspect", str(random_model))
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith(f"{random_model.name}: safetensors, ")
    for text in ("n_audio_ctx", "100", "English only", "model.decoder.embed_tokens.weight"):
        assert text in ended.stdout
    assert "1800 × 32" in ended.stdout


def test_json_has_the_same(random_model: Path) -> None:
    ended = earshot("inspect", "--json", str(random_model))
    description = json.loads(ended.stdout)
    assert description["dims"]["n_audio_ctx"] == 100
    shapes = {tensor["name"]: tensor["shape"] for tensor in description["tensors"]}
    assert shapes["model.decoder.embed_tokens.weight"] == [1800, 32]


def test_a_file_that_is_no_model_is_one_line(short: Path) -> None:
    ended = earshot("inspect", str(short))
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"earshot: {short}: ")
    assert ended.stderr.count("\n") == 1
