from __future__ import annotations

from collections.abc import Callable, Sequence

from service.decoding.params import AlignParams, SequenceParams
from service.decoding.words import Alignment
from service.engine.types import WindowInput
from service.text.tokenizer import WhisperTokenizer
from service.transcription.params import TranscriptionParams
from tests.unit.transcription.scenario import done_of, in_turn, recording, spoken, transcribe
from tests.unit.transcription.scripted import ScriptedRunner

WORDS = TranscriptionParams(word_timestamps=True)


def aligned(starts_s: Sequence[float]) -> Callable[[AlignParams], Alignment]:
    """Return what places the tokens of a window one after the other."""

    def align(how: AlignParams) -> Alignment:
        assert len(starts_s) == len(how.tokens) + 1
        return Alignment(tuple(starts_s), (0.5,) * len(how.tokens))

    return align


def test_segments_have_words_and_their_times(english: WhisperTokenizer) -> None:
    runner = ScriptedRunner(
        in_turn(spoken(english, 0.0, " ab c", 2.0)),
        align=aligned([0.5, 0.5, 0.7, 1.0, 1.2, 1.6]),
    )
    done = done_of(transcribe(english, runner, recording(2.0), WORDS))
    (segment,) = done.segments
    assert segment.words is not None
    assert [(w.word, w.start_s, w.end_s, w.probability) for w in segment.words] == [
        (" ab", 0.5, 1.0, 0.5), (" c", 1.0, 1.6, 0.5),
    ]  # fmt: skip
    assert (segment.start_s, segment.end_s) == (0.5, 1.6)
    assert "words" in segment.to_dict()


def test_without_words_a_segment_has_none(english: WhisperTokenizer) -> None:
    runner = ScriptedRunner(in_turn(spoken(english, 0.0, " ab", 2.0)))
    (segment,) = done_of(transcribe(english, runner, recording(2.0))).segments
    assert segment.words is None
    assert "words" not in segment.to_dict()


def test_the_next_window_begins_after_the_last_word(english: WhisperTokenizer) -> None:
    def script(window: WindowInput, params: SequenceParams) -> list[int]:
        first = params.noise.window == 0
        return spoken(english, 0.0, " ab") if first else spoken(english, 0.0, " c", 5.0)

    def align(how: AlignParams) -> Alignment:
        return aligned([1.0, 1.0, 3.0, 4.0] if len(how.tokens) == 3 else [0.0, 1.0, 2.0])(how)

    runner = ScriptedRunner(script, align=align)
    done = done_of(transcribe(english, runner, recording(10.0), WORDS))
    assert [segment.seek for segment in done.segments] == [0, 400]


def test_a_window_without_text_is_not_aligned(english: WhisperTokenizer) -> None:
    runner = ScriptedRunner(in_turn(spoken(english, 0.0)))
    assert done_of(transcribe(english, runner, recording(2.0), WORDS)).segments == ()
