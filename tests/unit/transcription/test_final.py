from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from service.transcription.events import (
    Event,
    Retract,
    RetractReason,
    TokenEvent,
)
from service.transcription.final import FinalTokens, TrimmedText
from tests.unit.transcription.done import segment


def token(
    index: int,
    text: str = "",
    *,
    at_s: float | None = None,
    window: int = 0,
    attempt: int = 0,
    silence: float | None = None,
) -> TokenEvent:
    return TokenEvent(index, window, attempt, index, text, -0.5, at_s, silence)


def tokens(one_attempt: bool = True, timestamps: bool = True) -> FinalTokens:
    return FinalTokens(one_attempt=one_attempt, timestamps=timestamps, no_speech_threshold=0.6)


def indices(final: FinalTokens, *events: Event) -> list[list[int]]:
    return [[token.index for token in final.push(event)] for event in events]


def test_two_timestamps_in_a_row_make_final_what_stands_before_them() -> None:
    spoken = [token(0, at_s=0, silence=0.1), token(1, " a"), token(2, at_s=1), token(3, at_s=1)]
    assert indices(tokens(), *spoken) == [[], [], [], [0, 1, 2, 3]]


def test_without_timestamps_each_token_is_final_at_once() -> None:
    spoken = [token(0, " a", silence=0.6), token(1, " b"), token(2, " c", window=1, silence=0.1)]
    assert indices(tokens(timestamps=False), *spoken) == [[0], [1], [2]]


def test_a_window_that_may_be_silent_is_kept_back_to_its_end() -> None:
    spoken: list[Event] = [
        token(0, " a", silence=0.7),
        token(1, " b"),
        Retract(0, 0, RetractReason.SEEK),
    ]
    after = [token(2, " c", window=1, silence=0.1)]
    assert indices(tokens(timestamps=False), *spoken, *after) == [[], [], [], [2]]


def test_a_window_that_may_be_heard_again_is_kept_back_to_its_end() -> None:
    first = [token(0, at_s=0, silence=0.1), token(1, " a"), token(2, at_s=1), token(3, at_s=1)]
    again: list[Event] = [token(4, " b", attempt=1), segment(0, 0, 1, " b")]
    final = tokens(one_attempt=False)
    assert indices(final, *first, Retract(0, 0, RetractReason.SEEK), *again) == [
        [], [], [], [], [], [], [4],
    ]  # fmt: skip


def test_the_next_window_makes_final_what_is_left_of_the_one_before() -> None:
    spoken = [token(0, " a", silence=0.1), token(1, at_s=1), token(2, " b", window=1, silence=0.9)]
    assert indices(tokens(), *spoken) == [[], [], [0, 1]]


def test_blanks_at_both_ends_are_no_text() -> None:
    text = TrimmedText()
    pieces = [text.push([part]) for part in (" ", " one", " ", "", "two ", "\n")]
    assert pieces == ["", "one", "", "", " two", ""]


@given(st.lists(st.text(alphabet=" \nab", max_size=4)))
def test_what_is_pushed_adds_up_to_the_trimmed_whole(parts: list[str]) -> None:
    text = TrimmedText()
    assert "".join(text.push([part]) for part in parts) == "".join(parts).strip()
