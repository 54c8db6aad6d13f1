from __future__ import annotations

import pytest

from service.audio.windows import Window
from service.decoding.words import Word
from service.transcription.hallucination import end_of, without_hallucinations
from service.transcription.window import Draft, WindowResult

WINDOW = Window(0, 0, 3000)


def draft(start_s: float, end_s: float, *, sure: bool = True, first: int = 0) -> Draft:
    """Return a segment of three words; one that is made up has improbable ones."""
    step = (end_s - start_s) / 3
    times = [(start_s + i * step, start_s + (i + 1) * step) for i in range(3)]
    probability = 0.9 if sure else 0.01
    words = tuple(Word(f" w{i}", (i,), *time, probability) for i, time in enumerate(times))
    return Draft(first, (1, 2, 3), " w0 w1 w2", start_s, end_s, words)


def result(*drafts: Draft, single: bool = False) -> WindowResult:
    texts = tuple(" w" for _ in range(3 * len(drafts)))
    return WindowResult(3000, drafts, texts, len(texts), single_timestamp=single)


def kept(found: WindowResult) -> list[float]:
    return [each.start_s for each in found.drafts]


def cleaned(found: WindowResult, window: Window = WINDOW, silence_s: float = 2.0) -> WindowResult:
    return without_hallucinations(window, found, silence_s, last_speech_s=0.0, n_frames=9000)


def test_good_segments_stay_and_silence_after_them_is_skipped_to() -> None:
    found = cleaned(result(draft(0, 3), draft(4, 7, first=3)))
    assert kept(found) == [0, 4]
    assert found.seek_frame == 700
    assert cleaned(result(draft(0, 3), draft(25, 29, first=3))).seek_frame == 3000
    assert cleaned(result(draft(0, 7), single=True)).seek_frame == 3000


def test_silence_before_a_made_up_start_is_skipped_and_the_rest_heard_again() -> None:
    found = cleaned(result(draft(5, 8, sure=False), draft(9, 12, first=3)))
    assert (kept(found), found.n_kept, found.seek_frame) == ([], 0, 500)
    assert not found.is_told


def test_a_made_up_segment_between_silences_goes_with_what_follows() -> None:
    window = Window(3, 6000, 3000)
    found = cleaned(
        result(
            draft(60.5, 63, first=0),
            draft(70, 72, sure=False, first=3),
            draft(80, 83, first=6),
        ),
        window,
    )
    assert (kept(found), found.n_kept, found.seek_frame) == ([60.5], 3, 7000)
    assert found.is_told
    assert not found.ends_clip


def test_a_made_up_segment_in_the_middle_of_speech_stays() -> None:
    found = cleaned(
        result(draft(0.5, 5), draft(5.1, 7, sure=False, first=3), draft(7.1, 12, first=6))
    )
    assert len(found.drafts) == 3


def test_a_made_up_end_ends_the_recording() -> None:
    window = Window(3, 6000, 3000)
    found = cleaned(result(draft(60.5, 63), draft(87, 89, sure=False, first=3)), window)
    assert found.ends_clip
    assert kept(found) == [60.5]


def test_the_end_is_that_of_the_last_word() -> None:
    assert end_of([]) is None
    assert end_of([Draft(0, (), "", 1, 2)]) == 2
    assert end_of([draft(0, 3), Draft(0, (), "", 4, 5, ())]) == pytest.approx(3)
