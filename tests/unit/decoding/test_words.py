"""Words of aligned tokens: where they are cut, what belongs to them, and their times."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from service.decoding.words import (
    Alignment,
    TimedSegment,
    Word,
    align_words,
    merge_punctuation,
    split_words,
    time_segments,
)
from service.text.tokenizer import WhisperTokenizer, load_tokenizer
from tests.parity.tokens import write_tokenizer
from tests.parity.vocabulary import text_tokens

N_LANGUAGES = 5


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> WhisperTokenizer:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    return load_tokenizer(write_tokenizer(folder, 2000, N_LANGUAGES))


def ids(*texts: str) -> list[int]:
    known = text_tokens(400)
    return [
        token
        for text in texts
        for token in ([known.index(text.encode())] if text.encode() in known else text.encode())
    ]


def test_words_are_cut_at_spaces_and_punctuation(tokenizer: WhisperTokenizer) -> None:
    tokens = ids(" w0", "s1", " (", " w4", ")", ".", " ", "é")
    words = split_words(tokens, tokenizer, "en")
    assert [text for text, _ in words] == [" w0s1", " (", " w4", ")", ".", " é"]
    assert [token for _, own in words for token in own] == tokens


def test_chinese_is_cut_at_characters_and_not_within(tokenizer: WhisperTokenizer) -> None:
    words = split_words(ids("你", "好"), tokenizer, "zh")
    assert [text for text, _ in words] == ["你", "好"]
    assert [len(own) for _, own in words] == [3, 3]
    assert [text for text, _ in split_words(ids("你", "好"), tokenizer, "en")] == ["你好"]


def test_malformed_bytes_are_words_and_lose_nothing(tokenizer: WhisperTokenizer) -> None:
    tokens = [0xC3, *ids(" w0"), 0xE4, 0xBD]
    words = split_words(tokens, tokenizer, "en")
    assert [token for _, own in words for token in own] == tokens


def test_word_begins_with_its_first_token_and_ends_where_the_next_begins(
    tokenizer: WhisperTokenizer,
) -> None:
    tokens = ids(" w0", "s1", " w4")
    alignment = Alignment((0.1, 0.2, 0.5, 0.9), (0.5, 1.0, 0.25))
    assert align_words(tokens, alignment, tokenizer, "en") == [
        Word(" w0s1", (tokens[0], tokens[1]), 0.1, 0.5, 0.75),
        Word(" w4", (tokens[2],), 0.5, 0.9, 0.25),
    ]


def words_of(*texts: str, length_s: float = 0.3) -> list[Word]:
    return [
        Word(text, (at,), round(at * length_s, 2), round((at + 1) * length_s, 2), 0.5)
        for at, text in enumerate(texts)
    ]


def test_punctuation_joins_its_word() -> None:
    merged = merge_punctuation(words_of(" “", " well", ",", " yes", "?", "!", " (", " no", ")"))
    assert [word.text for word in merged if word.text] == [" “ well,", " yes?!", " ( no)"]
    assert [word.tokens for word in merged if word.text] == [(0, 1, 2), (3, 4, 5), (6, 7, 8)]
    assert next(word.start_s for word in merged if word.text) == 0.3


def test_segments_take_the_times_of_their_words() -> None:
    words = words_of(" a", " b", " c", ".")
    segments = [TimedSegment(2.0, 2.5, (0, 1)), TimedSegment(2.5, 3.4, (2, 3))]
    first, second = time_segments(segments, words, offset_s=2.0, last_speech_s=2.0)
    assert [word.text for word in first.words] == [" a", " b"]
    assert [word.text for word in second.words] == [" c."]
    assert (first.start_s, first.end_s) == (2.0, 2.6)
    assert (second.start_s, second.end_s) == (2.6, 2.9)


def test_word_that_takes_up_a_pause_is_shortened() -> None:
    words = [Word(" a", (0,), 0.0, 9.0, 0.5), *words_of(" b", " c", " d")]
    words[1:] = [
        Word(w.text, (at + 1,), 9.0 + w.start_s, 9.0 + w.end_s, 0.5)
        for at, w in enumerate(words[1:])
    ]
    [segment] = time_segments(
        [TimedSegment(8.0, 10.0, (0, 1, 2, 3))], words, offset_s=0.0, last_speech_s=0.0
    )
    first = segment.words[0]
    assert first.end_s - first.start_s == pytest.approx(0.6)
    assert all(before.end_s <= after.start_s for before, after in pairwise(segment.words))


def test_long_word_at_the_end_of_a_sentence_is_shortened() -> None:
    words = [
        Word(" a", (0,), 0.0, 0.2, 0.5), Word(" b", (1,), 0.2, 0.4, 0.5),
        Word(".", (2,), 0.4, 3.0, 0.5), Word(" c", (3,), 3.0, 3.2, 0.5),
        Word(" d", (4,), 3.2, 3.4, 0.5),
    ]  # fmt: skip
    [segment] = time_segments(
        [TimedSegment(0.0, 3.4, (0, 1, 2, 3, 4))], words, offset_s=0.0, last_speech_s=0.0
    )
    assert [word.text for word in segment.words] == [" a", " b.", " c", " d"]


def test_segment_without_text_has_no_words() -> None:
    [segment] = time_segments([TimedSegment(1.0, 2.0, ())], [], offset_s=0.0, last_speech_s=0.0)
    assert segment == TimedSegment(1.0, 2.0, ())
