from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from service.text import SegmentBuilder, TimedTokens, WindowEnd

BEGIN = 1000
"""Ids from here on are timestamps; a test's text tokens are small numbers."""


def _at(seconds: float) -> int:
    return BEGIN + round(seconds / 0.02)


def _run(
    tokens: list[int], *, start_frame: int = 0, content_frames: int = 3000
) -> tuple[list[TimedTokens], WindowEnd]:
    builder = SegmentBuilder(BEGIN, start_frame=start_frame, content_frames=content_frames)
    pushed = [segment for token in tokens if (segment := builder.push(token)) is not None]
    end = builder.finish()
    return [*pushed, *end.segments], end


def _times(segments: list[TimedTokens]) -> list[tuple[float, float]]:
    return [(segment.start_s, segment.end_s) for segment in segments]


def test_two_timestamps_in_a_row_end_a_segment_at_once() -> None:
    builder = SegmentBuilder(BEGIN, start_frame=0, content_frames=3000)
    assert [builder.push(token) for token in (_at(0), 1, 2, _at(2.5))] == [None] * 4
    segment = builder.push(_at(2.5))
    assert segment == TimedTokens(0.0, 2.5, (_at(0), 1, 2, _at(2.5)), first=0)


def test_an_unfinished_segment_is_heard_again_in_the_next_window() -> None:
    segments, end = _run([_at(0), 1, _at(4), _at(4), 2, 3], start_frame=500)
    assert _times(segments) == [(5.0, 9.0)]
    assert end == WindowEnd((), 500 + 400, unfinished_from=3)


def test_a_window_that_ends_with_a_pair_goes_on_at_it() -> None:
    segments, end = _run([_at(0), 1, _at(4), _at(4.5)])
    assert _times(segments) == [(0.0, 4.0)]
    assert end == WindowEnd((), 400, unfinished_from=3)


def test_a_single_timestamp_at_the_end_means_that_the_window_is_done() -> None:
    tokens = [_at(0), 1, _at(4), _at(5), 2, _at(6)]
    segments, end = _run(tokens, start_frame=100, content_frames=2000)
    assert _times(segments) == [(1.0, 5.0), (6.0, 7.0)]
    assert segments[1].tokens == (_at(5), 2, _at(6))
    assert segments[1].first == 3
    assert end.seek_frame == 2100
    assert end.unfinished_from is None


def test_without_a_pair_the_window_is_one_segment_up_to_its_last_timestamp() -> None:
    segments, end = _run([_at(0), 1, 2, _at(7)], start_frame=1000, content_frames=1500)
    assert _times(segments) == [(10.0, 17.0)]
    assert end.seek_frame == 2500


def test_without_any_later_timestamp_the_segment_lasts_to_the_end_of_the_content() -> None:
    for tokens in ([1, 2, 3], [_at(0), 1, 2]):
        segments, end = _run(tokens, content_frames=777)
        assert _times(segments) == [(0.0, 7.77)]
        assert segments[0].tokens == tuple(tokens)
        assert end.seek_frame == 777


def test_an_empty_window_has_no_segment_and_is_done() -> None:
    segments, end = _run([], start_frame=3000, content_frames=1200)
    assert segments == []
    assert end.seek_frame == 4200


def test_three_timestamps_in_a_row_make_a_segment_without_length() -> None:
    segments, end = _run([_at(0), 1, _at(2), _at(2), _at(3), 2])
    assert _times(segments) == [(0.0, 2.0), (2.0, 2.0)]
    assert end.seek_frame == 200


def test_a_pair_at_zero_does_not_hold_the_transcription_up_nor_drop_text() -> None:
    segments, end = _run([_at(0), _at(0), 1, 2], start_frame=600, content_frames=900)
    assert end.seek_frame == 1500
    assert end.unfinished_from is None
    assert segments[-1].tokens == (_at(0), 1, 2)
    assert segments[-1].end_s == 15.0


def _reference(tokens: list[int], seek: int, size: int) -> tuple[list[list[int]], int]:
    """The slices and the seek of openai/whisper `transcribe()`, written down plainly."""
    stamp = [token >= BEGIN for token in tokens]
    single_ending = stamp[-2:] == [False, True]
    cuts = [i for i in range(1, len(tokens)) if stamp[i] and stamp[i - 1]]
    if not cuts:
        return [tokens], seek + size
    if single_ending:
        cuts.append(len(tokens))
    slices = [tokens[a:b] for a, b in zip([0, *cuts[:-1]], cuts, strict=True)]
    if single_ending:
        return slices, seek + size
    return slices, seek + 2 * (tokens[cuts[-1] - 1] - BEGIN)


@given(
    tokens=st.lists(st.one_of(st.integers(0, 9), st.integers(BEGIN + 1, BEGIN + 1500)), min_size=1),
    seek=st.integers(0, 5000),
)
def test_cutting_token_by_token_gives_the_slices_and_the_seek_of_the_reference(
    tokens: list[int], seek: int
) -> None:
    segments, end = _run(tokens, start_frame=seek)
    slices, expected_seek = _reference(tokens, seek, 3000)
    assert [list(segment.tokens) for segment in segments] == slices
    assert end.seek_frame == expected_seek


@given(tokens=st.lists(st.one_of(st.integers(0, 9), st.integers(BEGIN, BEGIN + 1500))))
def test_every_token_is_in_a_segment_or_heard_again(tokens: list[int]) -> None:
    segments, end = _run(tokens, start_frame=50)
    covered = [token for segment in segments for token in segment.tokens]
    assert covered == tokens[: end.unfinished_from]
    assert end.seek_frame > 50
