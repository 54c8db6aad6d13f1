from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from service.errors import CheckpointError, InvalidRequest
from service.text import WhisperTokenizer, load_tokenizer

Make = Callable[..., WhisperTokenizer]


def _definition(make_tokenizer: Make) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(make_tokenizer().to_json())
    return content


def _without(definition: Mapping[str, Any], text: str) -> dict[str, Any]:
    kept = [token for token in definition["added_tokens"] if token["content"] != text]
    return {**definition, "added_tokens": kept}


def _renamed(definition: Mapping[str, Any], old: str, new: str) -> dict[str, Any]:
    tokens = [
        {**token, "content": new if token["content"] == old else token["content"]}
        for token in definition["added_tokens"]
    ]
    return {**definition, "added_tokens": tokens}


def test_special_tokens_are_found_by_their_text(make_tokenizer: Make) -> None:
    tokenizer = make_tokenizer()
    assert tokenizer.token_text(tokenizer.eot) == "<|endoftext|>"
    assert tokenizer.token_text(tokenizer.sot) == "<|startoftranscript|>"
    assert tokenizer.token_text(tokenizer.sot_prev) == "<|startofprev|>"
    assert tokenizer.token_text(tokenizer.sot_lm) == "<|startoflm|>"
    assert tokenizer.token_text(tokenizer.no_timestamps) == "<|notimestamps|>"
    assert tokenizer.token_text(tokenizer.timestamp_begin) == "<|0.00|>"
    assert tokenizer.no_speech is not None
    assert tokenizer.token_text(tokenizer.no_speech) == "<|nospeech|>"
    assert list(tokenizer.languages) == ["en", "de", "ja"]
    assert tokenizer.n_vocab == tokenizer.timestamp_begin + 1501


def test_the_older_name_of_no_speech_is_known(make_tokenizer: Make) -> None:
    older = _renamed(_definition(make_tokenizer), "<|nospeech|>", "<|nocaptions|>")
    assert WhisperTokenizer(older).no_speech == make_tokenizer().no_speech


def test_a_vocabulary_without_written_timestamps_has_them_after_its_last_token(
    make_tokenizer: Make,
) -> None:
    definition = _definition(make_tokenizer)
    kept = [token for token in definition["added_tokens"] if "." not in token["content"]]
    tokenizer = WhisperTokenizer({**definition, "added_tokens": kept})
    assert tokenizer.timestamp_begin == make_tokenizer().timestamp_begin
    assert tokenizer.n_vocab == tokenizer.timestamp_begin
    assert tokenizer.timestamp_s(tokenizer.timestamp_begin + 50) == 1.0


@pytest.mark.parametrize(
    "text", ["<|endoftext|>", "<|startoftranscript|>", "<|startofprev|>", "<|notimestamps|>"]
)
def test_a_missing_special_token_is_named(make_tokenizer: Make, text: str) -> None:
    with pytest.raises(CheckpointError, match=text.replace("|", r"\|")):
        WhisperTokenizer(_without(_definition(make_tokenizer), text))


@given(text=st.text())
def test_text_comes_back_from_its_tokens(make_tokenizer: Make, text: str) -> None:
    tokenizer = make_tokenizer()
    ids = tokenizer.encode(text)
    assert all(tokenizer.is_text(i) for i in ids)
    assert tokenizer.decode(ids) == text


def test_special_tokens_in_a_text_stay_text(make_tokenizer: Make) -> None:
    tokenizer = make_tokenizer()
    text = "<|endoftext|><|startoftranscript|><|0.00|> <|nospeech|>"
    ids = tokenizer.encode(text)
    assert all(tokenizer.is_text(i) for i in ids)
    assert tokenizer.decode(ids) == text


def test_decoding_leaves_out_special_tokens_and_timestamps(make_tokenizer: Make) -> None:
    tokenizer = make_tokenizer()
    ids = [tokenizer.sot, tokenizer.timestamp_begin + 7, *tokenizer.encode("hi"), tokenizer.eot]
    assert tokenizer.decode(ids) == "hi"
    assert tokenizer.token_bytes(tokenizer.eot) == b""
    assert tokenizer.token_bytes(tokenizer.timestamp_begin + 7) == b""
    assert tokenizer.token_bytes(tokenizer.n_vocab + 5) == b""


@given(raw=st.lists(st.integers(0, 255), max_size=30))
def test_malformed_bytes_decode_as_the_tokenizers_library_decodes_them(
    make_tokenizer: Make, raw: list[int]
) -> None:
    tokenizer = make_tokenizer()
    library = Tokenizer.from_str(tokenizer.to_json())
    assert tokenizer.decode(raw) == library.decode(raw, skip_special_tokens=True)


def test_timestamps_tell_their_seconds(make_tokenizer: Make) -> None:
    tokenizer = make_tokenizer()
    assert tokenizer.timestamp_s(tokenizer.timestamp_begin) == 0.0
    assert tokenizer.timestamp_s(tokenizer.timestamp_begin + 1500) == 30.0
    assert tokenizer.timestamp_s(tokenizer.timestamp_begin + 29) == 0.58
    assert tokenizer.timestamp_s(tokenizer.eot) is None


def test_a_multilingual_prompt_names_language_and_task(make_tokenizer: Make) -> None:
    tokenizer = make_tokenizer()
    prompt = tokenizer.sot_sequence("de", "translate", timestamps=False)
    assert [tokenizer.token_text(i) for i in prompt] == [
        "<|startoftranscript|>",
        "<|de|>",
        "<|translate|>",
        "<|notimestamps|>",
    ]
    assert len(tokenizer.sot_sequence("en", "transcribe", timestamps=True)) == 3


def test_an_english_only_prompt_is_bare(make_tokenizer: Make) -> None:
    tokenizer = make_tokenizer(languages=())
    assert not tokenizer.is_multilingual
    assert tokenizer.transcribe is None
    assert tokenizer.sot_sequence(None, "transcribe", timestamps=True) == (tokenizer.sot,)
    assert tokenizer.sot_sequence("en", "transcribe", timestamps=False) == (
        tokenizer.sot,
        tokenizer.no_timestamps,
    )


def test_a_prompt_that_the_model_cannot_have_is_refused(make_tokenizer: Make) -> None:
    multilingual, english = make_tokenizer(), make_tokenizer(languages=())
    for tokenizer, language, task, param in (
        (multilingual, "fr", "transcribe", "language"),
        (multilingual, None, "transcribe", "language"),
        (multilingual, "en", "summarise", "task"),
        (english, "de", "transcribe", "language"),
        (english, "en", "translate", "task"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            tokenizer.sot_sequence(language, task, timestamps=True)
        assert caught.value.param == param


def test_what_the_checkpoint_says_about_languages_goes_first(make_tokenizer: Make) -> None:
    definition = _definition(make_tokenizer)
    english = WhisperTokenizer(definition, is_multilingual=False)
    assert not english.is_multilingual
    assert english.languages == {}
    bare = json.loads(make_tokenizer(languages=()).to_json())
    with pytest.raises(CheckpointError, match="no language tokens"):
        WhisperTokenizer(bare, is_multilingual=True)


def _with_merges(definition: dict[str, Any], merges: list[str]) -> dict[str, Any]:
    """Add the tokens that the merges make after the bytes, before the special tokens."""
    vocab = dict(definition["model"]["vocab"])
    for merge in merges:
        vocab[merge.replace(" ", "")] = len(vocab)
    moved = _shifted(definition, len(vocab))
    return {**moved, "model": {**definition["model"], "vocab": vocab, "merges": merges}}


def _shifted(definition: dict[str, Any], eot: int) -> dict[str, Any]:
    """Move <|endoftext|>, and all that comes after it, to `eot`."""
    first = min(token["id"] for token in definition["added_tokens"])
    tokens = [{**t, "id": t["id"] - first + eot} for t in definition["added_tokens"]]
    return {**definition, "added_tokens": tokens}


def test_gpt2s_own_vocabulary_means_english_only_in_spite_of_language_tokens(
    make_tokenizer: Make,
) -> None:
    definition = _definition(make_tokenizer)
    assert not WhisperTokenizer(_shifted(definition, 50256)).is_multilingual
    assert WhisperTokenizer(_shifted(definition, 50257)).is_multilingual


def test_non_speech_tokens_are_symbols_with_and_without_a_space(make_tokenizer: Make) -> None:
    definition = _with_merges(_definition(make_tokenizer), ["Ġ [", "Ġ -", "- -", "Ġ h", "Ġh i"])
    ids = definition["model"]["vocab"]
    tokenizer = WhisperTokenizer(definition)
    found = set(tokenizer.non_speech_tokens)
    assert {ids[text] for text in ("Ġ[", "Ġ-", "--", "[", "#", "~")} <= found
    assert 0xE2 in found  # the first byte of the musical symbols
    assert not found & {ord("-"), ord("'"), ord(","), ord("."), ord("?"), ids["Ġhi"]}
    assert tokenizer.blank_tokens == (ord(" "),)


def test_control_tokens_are_those_that_never_follow_a_prompt(make_tokenizer: Make) -> None:
    tokenizer = make_tokenizer()
    assert {tokenizer.token_text(i) for i in tokenizer.control_tokens} == {
        "<|startoftranscript|>",
        "<|translate|>",
        "<|transcribe|>",
        "<|startoflm|>",
        "<|startofprev|>",
        "<|nospeech|>",
    }


def _write_older_files(folder: Path, definition: Mapping[str, Any]) -> None:
    vocab = dict(definition["model"]["vocab"])
    added = {token["content"]: token["id"] for token in definition["added_tokens"]}
    vocab["<|endoftext|>"] = added.pop("<|endoftext|>")
    merges = ["#version: 0.2", *definition["model"]["merges"], ""]
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(merges), encoding="utf-8")
    (folder / "added_tokens.json").write_text(json.dumps(added), encoding="utf-8")


def test_the_older_files_load_as_the_same_tokenizer(make_tokenizer: Make, tmp_path: Path) -> None:
    definition = _with_merges(_definition(make_tokenizer), ["t h", "th e", "Ġ the"])
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "tokenizer.json").write_text(json.dumps(definition), encoding="utf-8")
    (tmp_path / "old").mkdir()
    _write_older_files(tmp_path / "old", definition)

    new, old = load_tokenizer(tmp_path / "new"), load_tokenizer(tmp_path / "old")

    text = " the theatre's 3 bath-mats <|endoftext|>"
    assert new.encode(text) == old.encode(text)
    assert definition["model"]["vocab"]["Ġthe"] in old.encode(text)
    assert (new.eot, new.sot, new.timestamp_begin) == (old.eot, old.sot, old.timestamp_begin)
    assert old.decode([old.sot, *old.encode(text), old.eot]) == text


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not readable as JSON"),
        ("[]", "expected a JSON object, found list"),
        ("{}", "not the layout"),
        ('{"model": {"type": "Unigram", "vocab": [["a", 0.5]]}, "added_tokens": []}', "layout|BPE"),
        ('{"model": {"type": "WordLevel", "vocab": {"a": 0}}, "added_tokens": []}', "WordLevel"),
    ],
)
def test_a_damaged_tokenizer_is_an_error_that_names_the_file(
    tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=message) as caught:
        load_tokenizer(tmp_path)
    assert str(tmp_path) in caught.value.message


def test_merges_that_do_not_fit_the_vocabulary_are_an_error(
    make_tokenizer: Make, tmp_path: Path
) -> None:
    definition = _definition(make_tokenizer)
    definition["model"] = {**definition["model"], "merges": ["q z"]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition), encoding="utf-8")
    with pytest.raises(CheckpointError, match="can build"):
        load_tokenizer(tmp_path)


def test_what_is_written_loads_as_the_same_tokenizer(make_tokenizer: Make, tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
    again = load_tokenizer(tmp_path)
    assert again.encode("Grüße, 世界") == tokenizer.encode("Grüße, 世界")
    assert again.languages == tokenizer.languages
