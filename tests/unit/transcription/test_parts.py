"""`chunking=parallel`: what parts of a recording come to."""

from __future__ import annotations

import numpy as np
import pytest

from service.decoding.params import AlignParams, SequenceParams
from service.decoding.words import Alignment
from service.engine.types import LanguageProbabilities, WindowInput
from service.errors import InvalidRequest
from service.text.tokenizer import WhisperTokenizer
from service.transcription.checks import check
from service.transcription.events import (
    LanguageDetected,
    Retract,
    RetractReason,
)
from service.transcription.params import Chunking, TranscriptionParams, Vad
from service.transcription.transcriber import Transcriber
from tests.unit.audio.test_vad import Loud
from tests.unit.transcription.parts import (
    PARALLEL,
    STEP_S,
    part_of,
    says_its_part,
    speech,
    with_company,
)
from tests.unit.transcription.scenario import (
    Maximum,
    done_of,
    facts,
    spoken,
    standing,
    transcribe,
)
from tests.unit.transcription.scripted import ScriptedRunner


def languages(tokens: WhisperTokenizer, code: str) -> LanguageProbabilities:
    return {token: float(code == each) for each, token in tokens.languages.items()}


def test_each_part_is_what_the_same_clip_is_alone(english: WhisperTokenizer) -> None:
    params = TranscriptionParams(
        chunking=Chunking.PARALLEL, temperature=0.5, initial_prompt="Names", hotwords="Earshot"
    )
    together = says_its_part(english)
    segments = done_of(transcribe(english, together, speech(3), params, speech_model=Loud)).segments
    for number, (segment, window) in enumerate(zip(segments, together.encoded, strict=True)):
        start_s, end_s = segment.seek / 100, (segment.seek + window.content_frames) / 100
        alone = says_its_part(english)
        clip = TranscriptionParams(
            vad=Vad.ON, temperature=0.5, initial_prompt="Names", hotwords="Earshot",
            clip_timestamps=(start_s, end_s), condition_on_previous_text=False,
        )  # fmt: skip
        transcribe(english, alone, speech(3), clip, speech_model=Loud)
        assert alone.prompts == together.prompts[number : number + 1], "seeds and prompts too"
        assert alone.encoded[0].log_maximum == window.log_maximum
        np.testing.assert_array_equal(alone.encoded[0].samples, window.samples)


def test_a_window_that_stops_early_is_gone_on_with_in_its_part(english: WhisperTokenizer) -> None:
    def script(window: WindowInput, params: SequenceParams) -> list[int]:
        if window.content_frames > 1500:
            return spoken(english, 0.0, f" p{part_of(window)}", 8.0, 8.0, " cut")
        return spoken(english, 0.0, " rest", 12.0)

    runner = ScriptedRunner(script, rows=8)
    events = transcribe(english, runner, speech(3), PARALLEL, speech_model=Loud)
    done = done_of(events)
    assert done.text == "p0 rest p1 rest p2 rest"
    assert [segment.window for segment in done.segments] == [0, 1, 2, 3, 4, 5]
    assert [e.reason for e in events if isinstance(e, Retract)] == [RetractReason.SEEK] * 3
    assert "".join(token.text for token in standing(events)).strip() == done.text
    assert all(how.sot_index == 0 for how in runner.prompts), "no part is told other text"


def test_a_part_that_fails_is_decoded_again_while_others_go_on(english: WhisperTokenizer) -> None:
    def script(window: WindowInput, params: SequenceParams) -> list[int]:
        loops = part_of(window) == 1 and params.temperature == 0
        return spoken(english, 0.0, " la" * 40 if loops else f" p{part_of(window)}", 20.0)

    events = transcribe(
        english, ScriptedRunner(script, rows=8), speech(4), PARALLEL, speech_model=Loud
    )
    done = done_of(events)
    assert done.text == "p0 p1 p2 p3"
    assert [segment.attempts for segment in done.segments] == [1, 2, 1, 1]
    (retract,) = [event for event in events if isinstance(event, Retract)]
    assert (retract.window, retract.reason) == (1, RetractReason.FALLBACK)
    assert "".join(token.text for token in standing(events)).strip() == done.text


def test_the_language_of_the_first_part_is_that_of_all(multilingual: WhisperTokenizer) -> None:
    asked: list[int] = []

    def detect(window: WindowInput) -> LanguageProbabilities:
        asked.append(part_of(window))
        return languages(multilingual, "ja")

    runner, events = with_company(multilingual, 6, 4, detect)
    assert asked == [0]
    assert [e.window for e in events if isinstance(e, LanguageDetected)] == [0]
    done = done_of(events)
    assert (done.language, done.language_probability) == ("ja", 1.0)
    assert {segment.language for segment in done.segments} == {"ja"}
    assert all(how.prompt[1] == multilingual.languages["ja"] for how in runner.prompts)
    assert runner.most_at_once == 4


def test_each_part_may_have_its_own_language(multilingual: WhisperTokenizer) -> None:
    runner = ScriptedRunner(
        lambda window, params: spoken(multilingual, 0.0, " x", 20.0),
        rows=8,
        languages=lambda window: languages(multilingual, "de" if part_of(window) % 2 else "en"),
    )
    params = TranscriptionParams(chunking=Chunking.PARALLEL, detect_language_per_window=True)
    events = transcribe(multilingual, runner, speech(4), params, speech_model=Loud)
    detected = [event for event in events if isinstance(event, LanguageDetected)]
    assert [(e.window, e.language) for e in detected] == list(enumerate(["en", "de", "en", "de"]))
    assert [s.language for s in done_of(events).segments] == ["en", "de", "en", "de"]


def test_words_have_their_times_in_the_recording(english: WhisperTokenizer) -> None:
    def align(params: AlignParams) -> Alignment:
        n = len(params.tokens)
        return Alignment(tuple(20.0 * at / n for at in range(n + 1)), (0.9,) * n)

    runner = ScriptedRunner(
        lambda window, params: spoken(english, 0.0, " a b c d", 20.0), rows=8, align=align
    )
    params = TranscriptionParams(chunking=Chunking.PARALLEL, word_timestamps=True)
    done = done_of(transcribe(english, runner, speech(3), params, speech_model=Loud))
    for number, segment in enumerate(done.segments):
        assert segment.words is not None
        assert [word.word for word in segment.words] == [" a", " b", " c", " d"]
        assert segment.words[-1].end_s == pytest.approx(STEP_S * number + 20, abs=0.4)


def test_speech_without_text_is_reported_wherever_it_is(english: WhisperTokenizer) -> None:
    runner = ScriptedRunner(
        lambda window, params: (
            spoken(english, 0.0) if part_of(window) == 1 else spoken(english, 0.0, " x", 20.0)
        ),
        rows=8,
    )
    done = done_of(transcribe(english, runner, speech(3), PARALLEL, speech_model=Loud))
    assert done.text == "x x"
    assert done.coverage == pytest.approx(2 / 3, abs=0.02)
    assert np.allclose(done.uncovered, [(24.9, 45.1)], atol=0.2)


def test_silence_is_an_empty_transcript(english: WhisperTokenizer) -> None:
    runner = says_its_part(english)
    silence = np.zeros(120 * 16_000, np.float32)
    done = done_of(transcribe(english, runner, silence, PARALLEL, speech_model=Loud))
    assert (done.text, done.segments, done.coverage, runner.encoded) == ("", (), 1.0, [])


def test_only_clips_are_cut(english: WhisperTokenizer) -> None:
    runner = says_its_part(english)
    params = TranscriptionParams(chunking=Chunking.PARALLEL, clip_timestamps=(25, 45, 50))
    done = done_of(transcribe(english, runner, speech(4), params, speech_model=Loud))
    assert done.text == "p1 p2 p3"


@pytest.mark.parametrize(
    ("params", "param"),
    [
        (TranscriptionParams(chunking=Chunking.PARALLEL, vad=Vad.OFF), "vad"),
        (
            TranscriptionParams(chunking=Chunking.PARALLEL, condition_on_previous_text=True),
            "condition_on_previous_text",
        ),
    ],
)
def test_what_parts_cannot_do_is_refused(
    english: WhisperTokenizer, params: TranscriptionParams, param: str
) -> None:
    with pytest.raises(InvalidRequest, match="contradict") as caught:
        check(params, english, facts(english))
    assert caught.value.param == param


def test_without_a_detector_there_are_no_parts(english: WhisperTokenizer) -> None:
    transcriber = Transcriber(facts(english), english, Maximum())
    with pytest.raises(InvalidRequest, match="no voice activity detection") as caught:
        transcriber.check(PARALLEL)
    assert caught.value.param == "chunking"


def test_parts_are_told_nothing_and_listened_to(english: WhisperTokenizer) -> None:
    checked = check(PARALLEL, english, facts(english))
    assert (checked.condition_on_previous_text, checked.vad) == (False, Vad.ON)
