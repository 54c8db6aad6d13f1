from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.audio.windows import SeekPlanner, Window, extract, total_frames


@pytest.mark.parametrize(
    ("n_samples", "frames"), [(1, 1), (159, 1), (160, 1), (319, 1), (320, 2), (480_159, 3000)]
)
def test_a_recording_holds_its_whole_hops_and_at_least_one(n_samples: int, frames: int) -> None:
    assert total_frames(n_samples) == frames


def test_no_sample_is_no_recording() -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        total_frames(0)


@given(
    n_frames=st.integers(1, 20_000),
    max_frames=st.integers(1, 3000),
    data=st.data(),
)
def test_windows_of_any_progress_cover_every_frame_and_end(
    n_frames: int, max_frames: int, data: st.DataObject
) -> None:
    max_frames = max(max_frames, n_frames // 50 + 1)
    planner = SeekPlanner(n_frames, max_frames)
    covered, index = 0, 0
    while (window := planner.next()) is not None:
        assert window == planner.next()
        assert window.index == index
        assert window.start_frame == covered
        assert 1 <= window.content_frames <= max_frames
        assert window.end_frame <= n_frames
        least = window.start_frame + (window.content_frames + 1) // 2
        covered = data.draw(st.integers(least, window.end_frame))
        planner.advance(covered)
        assert planner.seek == covered
        index += 1
    assert covered == n_frames


@given(
    n_frames=st.integers(1, 5000),
    max_frames=st.integers(100, 3000),
    edges=st.lists(st.integers(0, 6000), max_size=8).map(sorted),
)
def test_exactly_the_frames_of_the_clips_are_covered(
    n_frames: int, max_frames: int, edges: list[int]
) -> None:
    clips = list(zip(edges[::2], edges[1::2], strict=False))
    planner = SeekPlanner(n_frames, max_frames, clips)
    covered: list[int] = []
    while (window := planner.next()) is not None:
        covered += range(window.start_frame, window.end_frame)
        planner.advance(window.end_frame)
    expected = [at for start, end in clips for at in range(start, min(end, n_frames))]
    assert covered == expected


def test_windows_know_their_times() -> None:
    window = Window(index=2, start_frame=3050, content_frames=125)
    assert (window.start_s, window.duration_s) == (30.5, 1.25)


@pytest.mark.parametrize("to_frame", [-1, 0, 101])
def test_the_planner_neither_stands_still_nor_jumps(to_frame: int) -> None:
    planner = SeekPlanner(300, 100)
    with pytest.raises(ValueError, match=f"frame {to_frame}"):
        planner.advance(to_frame)
    assert planner.next() == Window(0, 0, 100, longest_frames=100)


def test_a_finished_planner_does_not_advance() -> None:
    planner = SeekPlanner(10, 100)
    planner.advance(10)
    assert planner.next() is None
    with pytest.raises(ValueError, match="nothing is left"):
        planner.advance(11)


@pytest.mark.parametrize("clips", [[(5, 4)], [(0, 10), (9, 20)], [(-1, 3)]])
def test_clips_out_of_order_are_refused(clips: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match="out of order"):
        SeekPlanner(100, 100, clips)


@given(
    n_samples=st.integers(1, 3000),
    start_frame=st.integers(0, 20),
    content_frames=st.integers(1, 20),
)
def test_extract_is_a_slice_of_the_recording_mirrored_before_it_and_silent_after_it(
    n_samples: int, start_frame: int, content_frames: int
) -> None:
    waveform = np.arange(1, n_samples + 1, dtype=np.float32)
    samples = extract(waveform, start_frame, content_frames)
    endless = np.concatenate([waveform, np.zeros(8000, dtype=np.float32)])
    padded = np.pad(endless, (200, 0), mode="reflect")
    start = start_frame * 160
    np.testing.assert_array_equal(samples, padded[start : start + content_frames * 160 + 400])


def test_extract_does_not_alias_the_recording() -> None:
    waveform = np.ones(16_000, dtype=np.float32)
    extract(waveform, 10, 10)[:] = 0.0
    assert waveform.all()


@pytest.mark.parametrize(("start_frame", "content_frames"), [(-1, 5), (0, 0)])
def test_extract_refuses_windows_that_cannot_be(start_frame: int, content_frames: int) -> None:
    with pytest.raises(ValueError, match="no window"):
        extract(np.ones(1000, dtype=np.float32), start_frame, content_frames)
