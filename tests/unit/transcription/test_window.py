from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from service.audio.windows import Window
from service.decoding.quality import compression_ratio
from service.engine.types import Finish, TokenStep
from service.errors import DecodingFailed
from service.text.tokenizer import WhisperTokenizer
from service.transcription.events import TokenEvent
from service.transcription.window import WindowTranscript


@pytest.fixture(scope="module")
def tokenizer(make_tokenizer: Callable[..., WhisperTokenizer]) -> WhisperTokenizer:
    return make_tokenizer()


def transcript(tokenizer: WhisperTokenizer, *, start_frame: int = 0) -> WindowTranscript:
    window = Window(index=3, start_frame=start_frame, content_frames=3000)
    return WindowTranscript(window, tokenizer, first_index=100, temperature=0.4)


def spoken(tokenizer: WhisperTokenizer, *parts: str | float) -> list[int]:
    """Return tokens of texts and of timestamps in seconds."""
    tokens: list[int] = []
    for part in parts:
        if isinstance(part, str):
            tokens += tokenizer.encode(part)
        else:
            tokens.append(tokenizer.timestamp_begin + round(part / 0.02))
    return tokens


def push(collected: WindowTranscript, tokens: Sequence[int]) -> list[TokenEvent]:
    events = [collected.push(TokenStep(token, -0.5)) for token in tokens]
    assert None not in events
    return [event for event in events if event is not None]


def end(tokenizer: WhisperTokenizer, logprob: float = -0.5) -> TokenStep:
    return TokenStep(tokenizer.eot, logprob, finish=Finish.EOT)


def test_every_token_has_its_number_text_and_time(tokenizer: WhisperTokenizer) -> None:
    collected = transcript(tokenizer, start_frame=500)
    events = push(collected, spoken(tokenizer, 1.0, "hi"))
    assert [event.index for event in events] == [100, 101, 102]
    assert [event.text for event in events] == ["", "h", "i"]
    assert [event.timestamp_s for event in events] == [6.0, None, None]
    assert {event.window for event in events} == {3}


def test_end_of_text_is_no_token(tokenizer: WhisperTokenizer) -> None:
    collected = transcript(tokenizer)
    assert collected.push(end(tokenizer)) is None
    assert (collected.n_tokens, collected.n_steps) == (0, 1)


def test_a_finished_window_moves_to_its_end(tokenizer: WhisperTokenizer) -> None:
    collected = transcript(tokenizer)
    push(collected, spoken(tokenizer, 0.0, " one", 2.0, 2.0, " two", 4.5))
    collected.push(end(tokenizer))
    result = collected.finish()
    assert result.seek_frame == 3000
    assert result.n_kept == len(result.texts)
    assert result.single_timestamp
    assert result.text == " one two"
    assert [(d.start_s, d.end_s, d.text) for d in result.drafts] == [
        (0.0, 2.0, " one"),
        (2.0, 4.5, " two"),
    ]


def test_an_unfinished_segment_is_retracted_and_heard_again(tokenizer: WhisperTokenizer) -> None:
    collected = transcript(tokenizer, start_frame=1000)
    tokens = spoken(tokenizer, 0.0, " one", 2.0, 2.0, " tw")
    events = push(collected, tokens)
    collected.push(end(tokenizer))
    result = collected.finish()
    assert result.seek_frame == 1200
    assert not result.single_timestamp
    kept = events[: result.n_kept]
    assert "".join(event.text for event in kept) == result.text == " one"
    assert [draft.tokens for draft in result.drafts] == [tuple(event.token_id for event in kept)]


def test_text_without_timestamps_is_one_segment(tokenizer: WhisperTokenizer) -> None:
    collected = transcript(tokenizer)
    push(collected, spoken(tokenizer, "hello"))
    collected.push(end(tokenizer))
    (draft,) = collected.finish().drafts
    assert (draft.start_s, draft.end_s, draft.text) == (0.0, 30.0, "hello")


def test_without_timestamps_the_window_is_one_segment_whatever_is_sampled(
    tokenizer: WhisperTokenizer,
) -> None:
    window = Window(index=0, start_frame=0, content_frames=150)
    collected = WindowTranscript(window, tokenizer, first_index=0, timestamps=False)
    push(collected, spoken(tokenizer, "a", 0.5, 0.5, "b"))
    collected.push(end(tokenizer))
    result = collected.finish()
    assert (result.seek_frame, result.n_kept, result.text) == (150, 4, "ab")
    assert [(d.start_s, d.end_s, d.text) for d in result.drafts] == [(0.0, 1.5, "ab")]


def test_half_a_character_is_no_text(tokenizer: WhisperTokenizer) -> None:
    collected = transcript(tokenizer)
    push(collected, spoken(tokenizer, "né")[:-1])
    collected.push(end(tokenizer))
    assert collected.finish().text == "n"


def test_characters_of_several_tokens_come_whole(tokenizer: WhisperTokenizer) -> None:
    collected = transcript(tokenizer)
    events = push(collected, spoken(tokenizer, "é日"))
    assert [event.text for event in events] == ["", "é", "", "", "日"]


def test_a_window_without_text_tells_the_next_one_nothing(tokenizer: WhisperTokenizer) -> None:
    collected = transcript(tokenizer)
    push(collected, spoken(tokenizer, 0.0))
    collected.push(end(tokenizer))
    result = collected.finish()
    assert (result.text, result.said(), result.seek_frame) == ("", [], 3000)


def test_the_average_logprob_counts_end_of_text(tokenizer: WhisperTokenizer) -> None:
    collected = transcript(tokenizer)
    collected.push(TokenStep(ord("a") - 33, -1.0, no_speech_prob=0.25))
    collected.push(end(tokenizer, -2.0))
    quality = collected.quality()
    assert quality.avg_logprob == pytest.approx(-1.5)
    assert quality.no_speech_prob == 0.25


def test_the_ratio_is_that_of_the_whole_windows_text(tokenizer: WhisperTokenizer) -> None:
    collected = transcript(tokenizer)
    push(collected, spoken(tokenizer, 0.0, " la la la la", 2.0, 2.0, " la la la la", 4.0))
    push(collected, [tokenizer.languages["de"]])
    collected.push(end(tokenizer))
    ratio = compression_ratio("la la la la la la la la<|de|>")
    assert collected.quality().compression_ratio == ratio > 1


def test_drafts_are_cut_with_their_tokens(tokenizer: WhisperTokenizer) -> None:
    collected = transcript(tokenizer)
    push(collected, spoken(tokenizer, 0.0, " one", 2.0, 2.0, " two", 4.5))
    collected.push(end(tokenizer))
    left = collected.finish().cut(1, seek_frame=250)
    assert (left.text, left.seek_frame, len(left.drafts)) == (" one", 250, 1)
    assert left.said() == list(left.drafts[0].tokens)
    silent = left.silent(3000)
    assert (silent.text, silent.drafts, silent.seek_frame) == ("", (), 3000)


def test_the_error_of_a_step_is_raised(tokenizer: WhisperTokenizer) -> None:
    failure = DecodingFailed("NaN")
    with pytest.raises(DecodingFailed, match="NaN"):
        transcript(tokenizer).push(TokenStep(0, 0.0, finish=Finish.ERROR, error=failure))
