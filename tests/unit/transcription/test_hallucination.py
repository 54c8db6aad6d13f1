from __future__ import annotations

from collections.abc import Callable

import pytest

from service.audio.windows import Window
from service.decoding.params import AlignParams
from service.decoding.words import Alignment, Word
from service.text.tokenizer import WhisperTokenizer
from service.transcription.events import Retract, RetractReason, TokenEvent
from service.transcription.hallucination import end_of, without_hallucinations
from service.transcription.params import TranscriptionParams, Vad
from service.transcription.window import Draft, WindowResult
from tests.unit.transcription.scenario import (
    done_of,
    in_turn,
    recording,
    spoken,
    standing,
    transcribe,
)
from tests.unit.transcription.scripted import ScriptedRunner

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


def test_what_is_made_up_between_silences_is_taken_back_and_heard_again(
    make_tokenizer: Callable[..., WhisperTokenizer],
) -> None:
    """Through the whole loop: the words come from an alignment, the skip moves the next window."""
    english = make_tokenizer(languages=())
    said, made_up = " one two three", " thanks"

    def align(params: AlignParams) -> Alignment:
        """Put sure words into the first five seconds, and unsure ones of no length after 15 s."""
        n_said = len(english.encode(said))
        n_all = len(params.tokens)
        starts = [5.0 * at / n_said for at in range(n_said)]
        starts += [15.0 + 0.01 * at for at in range(n_all - n_said + 1)]
        return Alignment(tuple(starts), (0.9,) * n_said + (0.01,) * (n_all - n_said))

    runner = ScriptedRunner(
        in_turn(
            spoken(english, 0.0, said, 5.0, 15.0, made_up, 17.0),
            spoken(english, 0.0, said, 5.0),
            spoken(english, 0.0, said, 5.0),
            spoken(english, 0.0, said, 5.0),
        ),
        align=align,
    )
    params = TranscriptionParams(
        word_timestamps=True, hallucination_silence_threshold=2.0, vad=Vad.OFF, temperature=0.0
    )
    events = transcribe(english, runner, recording(60.0), params)
    done = done_of(events)
    assert made_up not in done.text
    first = next(event for event in events if isinstance(event, Retract))
    assert (first.window, first.reason) == (0, RetractReason.SEEK)
    void = [e for e in events if isinstance(e, TokenEvent) and e.window == 0][-9:]
    assert made_up in "".join(token.text for token in void)
    assert "".join(token.text for token in standing(events)).strip() == done.text
    assert [segment.seek for segment in done.segments][:2] == [0, 1500]
    plain = TranscriptionParams(word_timestamps=True, vad=Vad.OFF, temperature=0.0)
    runner = ScriptedRunner(
        lambda window, how: (
            spoken(english, 0.0, said, 5.0, 15.0, made_up, 17.0)
            if window.content_frames == 3000
            else spoken(english, 0.0, said, 5.0)
        ),
        align=align,
    )
    assert made_up in done_of(transcribe(english, runner, recording(60.0), plain)).text
