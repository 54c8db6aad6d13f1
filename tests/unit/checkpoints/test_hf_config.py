from __future__ import annotations

from pathlib import Path

import pytest

from service.checkpoints import load_checkpoint
from service.text import WhisperTokenizer
from tests.unit.checkpoints.folders import edit_json, refusal


def test_the_window_rounding_is_read_from_the_config(hf_folder: Path) -> None:
    assert load_checkpoint(hf_folder).config.window_rounding_frames == 0
    edit_json(hf_folder / "config.json", {"window_rounding_frames": 64})
    assert load_checkpoint(hf_folder).config.window_rounding_frames == 64
    edit_json(hf_folder / "config.json", {}, drop="window_rounding_frames")
    assert load_checkpoint(hf_folder).config.window_rounding_frames == 0


@pytest.mark.parametrize(
    ("changes", "drop", "message"),
    [
        ({"model_type": "wav2vec2"}, None, "expected model_type 'whisper', found 'wav2vec2'"),
        ({}, "model_type", "found None"),
        ({}, "num_mel_bins", "missing fields: num_mel_bins"),
        ({"d_model": 25}, None, "n_audio_head=3 does not divide"),
        ({"d_model": "24"}, None, "d_model must be an integer, found '24'"),
        ({"encoder_layers": 0}, None, "n_audio_layer must be positive, found 0"),
        ({"window_rounding_frames": 33}, None, "must be even"),
        ({"activation_function": "relu"}, None, "activation_function is 'relu'"),
        ({"scale_embedding": True}, None, "scale_embedding is True"),
        ({"vocab_size": 100}, None, "embed_tokens"),
    ],
)
def test_a_config_that_cannot_be_served_says_why(
    hf_folder: Path, changes: dict[str, object], drop: str | None, message: str
) -> None:
    edit_json(hf_folder / "config.json", changes, drop=drop)
    assert message in refusal(hf_folder)


@pytest.mark.parametrize("content", ["{", "[1]", "\x00\xff"])
def test_a_config_that_is_no_json_object_is_refused(hf_folder: Path, content: str) -> None:
    (hf_folder / "config.json").write_text(content, encoding="latin-1")
    assert "config.json" in refusal(hf_folder)


def test_generation_settings_are_what_the_folder_says(hf_folder: Path) -> None:
    path = hf_folder / "generation_config.json"
    changes = {
        "suppress_tokens": [5, 6, 99_999],
        "begin_suppress_tokens": None,
        "alignment_heads": [[1, 2], [77, 0]],
        "max_initial_timestamp_index": None,
        "is_multilingual": False,
    }
    edit_json(path, changes)
    checkpoint = load_checkpoint(hf_folder)
    assert checkpoint.generation.suppress_tokens == (5, 6)
    assert checkpoint.generation.begin_suppress_tokens == ()
    assert checkpoint.generation.alignment_heads == ((1, 2),)
    assert checkpoint.generation.max_initial_timestamp_index is None
    assert not checkpoint.generation.is_multilingual
    assert not checkpoint.tokenizer.is_multilingual


def test_without_generation_settings_the_references_defaults_hold(
    hf_folder: Path, tokenizer: WhisperTokenizer
) -> None:
    (hf_folder / "generation_config.json").unlink()
    generation = load_checkpoint(hf_folder).generation
    assert set(tokenizer.non_speech_tokens) < set(generation.suppress_tokens)
    assert set(tokenizer.control_tokens) < set(generation.suppress_tokens)
    assert generation.begin_suppress_tokens == (*tokenizer.blank_tokens, tokenizer.eot)
    assert generation.max_initial_timestamp_index == 50
    assert generation.alignment_heads == tuple((layer, h) for layer in (1, 2) for h in range(4))
    assert generation.is_multilingual


def test_settings_from_before_generation_config_are_read_from_the_config(hf_folder: Path) -> None:
    (hf_folder / "generation_config.json").unlink()
    edit_json(hf_folder / "config.json", {"suppress_tokens": [9], "begin_suppress_tokens": [8]})
    generation = load_checkpoint(hf_folder).generation
    assert generation.suppress_tokens == (9,)
    assert generation.begin_suppress_tokens == (8,)


@pytest.mark.parametrize(
    "changes",
    [
        {"suppress_tokens": "1,2"},
        {"begin_suppress_tokens": [1.5]},
        {"alignment_heads": [[1, 2, 3]]},
        {"max_initial_timestamp_index": -1},
    ],
)
def test_generation_settings_that_mean_nothing_are_refused(
    hf_folder: Path, changes: dict[str, object]
) -> None:
    edit_json(hf_folder / "generation_config.json", changes)
    assert next(iter(changes)) in refusal(hf_folder)
