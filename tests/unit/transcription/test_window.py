from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from service.audio.windows import Window
from service.decoding.quality import compression_ratio
from service.engine.types import Finish, TokenStep
from service.errors import DecodingFailed
from service.text.tokenizer import WhisperTokenizer
from service.transcription.events import RetractReason, TokenEvent
from service.transcription.window import WindowTranscript


@pytest.fixture(scope="module")
def tokenizer(make_tokenizer: Callable[..., WhisperTokenizer]) -> WhisperTokenizer:
    return make_tokenizer()


def transcript(tokenizer: WhisperTokenizer, *, start_frame: int = 0) -> WindowTranscript:
    window = Window(index=3, start_frame=start_frame, content_frames=3000)
    return WindowTranscript(window, tokenizer, first_index=100, first_segment=7, temperature=0.4)


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
    assert result.retract is None
    assert result.text == " one two"
    assert [(s.id, s.start_s, s.end_s, s.text) for s in result.segments] == [
        (7, 0.0, 2.0, " one"),
        (8, 2.0, 4.5, " two"),
    ]


def test_an_unfinished_segment_is_retracted_and_heard_again(tokenizer: WhisperTokenizer) -> None:
    collected = transcript(tokenizer, start_frame=1000)
    tokens = spoken(tokenizer, 0.0, " one", 2.0, 2.0, " tw")
    events = push(collected, tokens)
    collected.push(end(tokenizer))
    result = collected.finish()
    assert result.seek_frame == 1200
    assert result.retract is not None
    assert result.retract.reason is RetractReason.SEEK
    kept = [event for event in events if event.index < result.retract.from_index]
    assert "".join(event.text for event in kept) == result.text == " one"
    assert [segment.tokens for segment in result.segments] == [
        tuple(event.token_id for event in kept)
    ]


def test_text_without_timestamps_is_one_segment(tokenizer: WhisperTokenizer) -> None:
    collected = transcript(tokenizer)
    push(collected, spoken(tokenizer, "hello"))
    collected.push(end(tokenizer))
    (segment,) = collected.finish().segments
    assert (segment.start_s, segment.end_s, segment.text) == (0.0, 30.0, "hello")


def test_a_timestamp_after_the_audio_is_cut_to_its_end(tokenizer: WhisperTokenizer) -> None:
    window = Window(index=0, start_frame=0, content_frames=150)
    collected = WindowTranscript(window, tokenizer, first_index=0, first_segment=0, temperature=0.0)
    push(collected, spoken(tokenizer, 0.0, "a", 20.0, 20.0, "b"))
    collected.push(end(tokenizer))
    result = collected.finish()
    assert result.seek_frame == 150
    assert [(s.start_s, s.end_s) for s in result.segments] == [(0.0, 1.5)]


def test_without_timestamps_the_window_is_one_segment_whatever_is_sampled(
    tokenizer: WhisperTokenizer,
) -> None:
    window = Window(index=0, start_frame=0, content_frames=150)
    collected = WindowTranscript(
        window, tokenizer, first_index=0, first_segment=0, temperature=0.0, timestamps=False
    )
    push(collected, spoken(tokenizer, "a", 0.5, 0.5, "b"))
    collected.push(end(tokenizer))
    result = collected.finish()
    assert (result.seek_frame, result.retract, result.text) == (150, None, "ab")
    assert [(s.start_s, s.end_s, s.text) for s in result.segments] == [(0.0, 1.5, "ab")]


def test_half_a_character_is_no_text(tokenizer: WhisperTokenizer) -> None:
    collected = transcript(tokenizer)
    push(collected, spoken(tokenizer, "né")[:-1])
    collected.push(end(tokenizer))
    assert collected.finish().text == "n"


def test_characters_of_several_tokens_come_whole(tokenizer: WhisperTokenizer) -> None:
    collected = transcript(tokenizer)
    events = push(collected, spoken(tokenizer, "é日"))
    assert [event.text for event in events] == ["", "é", "", "", "日"]


def test_a_window_without_text_has_no_segment(tokenizer: WhisperTokenizer) -> None:
    collected = transcript(tokenizer)
    push(collected, spoken(tokenizer, 0.0))
    collected.push(end(tokenizer))
    result = collected.finish()
    assert (result.text, result.segments, result.seek_frame) == ("", (), 3000)


def test_the_average_logprob_counts_end_of_text(tokenizer: WhisperTokenizer) -> None:
    collected = transcript(tokenizer)
    collected.push(TokenStep(ord("a") - 33, -1.0, no_speech_prob=0.25))
    collected.push(end(tokenizer, -2.0))
    (segment,) = collected.finish().segments
    assert segment.avg_logprob == pytest.approx(-1.5)
    assert segment.no_speech_prob == 0.25
    assert segment.temperature == 0.4


def test_segments_say_where_their_window_starts_and_how_it_repeats(
    tokenizer: WhisperTokenizer,
) -> None:
    collected = transcript(tokenizer, start_frame=1000)
    push(collected, spoken(tokenizer, 0.0, " la la la la", 2.0, 2.0, " la la la la", 4.0))
    collected.push(end(tokenizer))
    segments = collected.finish().segments
    assert [segment.seek for segment in segments] == [1000, 1000]
    ratio = compression_ratio("la la la la la la la la")
    assert [segment.compression_ratio for segment in segments] == [ratio, ratio]
    assert ratio > 1


def test_the_error_of_a_step_is_raised(tokenizer: WhisperTokenizer) -> None:
    failure = DecodingFailed("NaN")
    with pytest.raises(DecodingFailed, match="NaN"):
        transcript(tokenizer).push(TokenStep(0, 0.0, finish=Finish.ERROR, error=failure))
