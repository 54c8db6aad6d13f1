from __future__ import annotations

from collections.abc import Callable

from hypothesis import example, given
from hypothesis import strategies as st

from service.text import StreamingDetokenizer, WhisperTokenizer

Make = Callable[..., WhisperTokenizer]


@given(text=st.text())
def test_no_push_ever_ends_within_a_character(make_tokenizer: Make, text: str) -> None:
    tokenizer = make_tokenizer()
    detokenizer = StreamingDetokenizer(tokenizer)
    pieces = [detokenizer.push(token) for token in tokenizer.encode(text)]
    assert "".join(pieces) == text
    assert "\ufffd" in text or not any("\ufffd" in piece for piece in pieces)
    assert detokenizer.flush() == ""


@given(raw=st.lists(st.integers(0, 255), max_size=40))
@example(raw=[0xED, 0xA0, 0x80])
@example(raw=[0xF0, 0x9F, 0x98])
@example(raw=[0xE2, 0x28, 0xA1])
@example(raw=[0xF4, 0x90, 0x80, 0x80])
def test_pushes_and_flush_joined_are_the_decoding_of_the_whole(
    make_tokenizer: Make, raw: list[int]
) -> None:
    tokenizer = make_tokenizer()
    detokenizer = StreamingDetokenizer(tokenizer)
    joined = "".join(map(detokenizer.push, raw)) + detokenizer.flush()
    assert joined == tokenizer.decode(raw)


def test_a_character_appears_with_its_last_byte(make_tokenizer: Make) -> None:
    tokenizer = make_tokenizer()
    detokenizer = StreamingDetokenizer(tokenizer)
    pieces = [detokenizer.push(token) for token in tokenizer.encode("é\U0001f600")]
    assert pieces == ["", "é", "", "", "", "\U0001f600"]


def test_special_tokens_and_timestamps_within_a_character_do_not_break_it(
    make_tokenizer: Make,
) -> None:
    tokenizer = make_tokenizer()
    detokenizer = StreamingDetokenizer(tokenizer)
    first, second = tokenizer.encode("é")
    stamp = tokenizer.timestamp_begin + 5
    pieces = [detokenizer.push(token) for token in (first, stamp, second, tokenizer.eot)]
    assert pieces == ["", "", "é", ""]


def test_flush_gives_an_unfinished_character_up_and_starts_anew(make_tokenizer: Make) -> None:
    tokenizer = make_tokenizer()
    detokenizer = StreamingDetokenizer(tokenizer)
    detokenizer.push(0xF0)
    assert detokenizer.flush() == "\ufffd"
    assert detokenizer.push(ord("a")) == "a"
    assert detokenizer.flush() == ""
