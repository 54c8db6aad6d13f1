"""Whole recordings against openai-whisper's `transcribe()`, in small company and among 15 others.

References: `record_longform.py`. Every model is a random one, so what is compared is every rule of
the long form and nothing that a trained model would smooth over: each decoding of a window, those
that did not stand too, and the segments with their figures and words.

Both sides really sample at the ladder's temperatures above 0, each with noise of its own. That is
the same as argmax where no margin is narrow: see `longform.LADDER`.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from service.audio.windows import total_frames
from service.transcription.events import SegmentEvent
from service.transcription.params import TranscriptionParams, Vad
from tests.parity import longform
from tests.parity.longform import CASES, CAUSES, CHECKPOINTS, LADDER, Case, Checkpoint
from tests.parity.recipes import TIE_MARGIN, Array, digest
from tests.parity.recordings import recording, samples_sha256
from tests.parity.served import Heard, Job, serve, transcribe
from tests.parity.tally import Tally

pytestmark = pytest.mark.timeout(900)

SECONDS_TOLERANCE = 0.02 + 1e-6
FIGURE_TOLERANCE = 1e-3
N_OTHERS = 15
"""Requests beside each, of which those that are no case go on for as long."""


@pytest.fixture(scope="module")
def recorded() -> Any:
    return longform.recorded()


def heard_by(checkpoint: Checkpoint) -> Array:
    """What a model hears; skips where that is a recording and there are none."""
    if not checkpoint.recording:
        return longform.audio(checkpoint)
    folder = os.environ.get("EARSHOT_SHARED")
    if not folder:
        pytest.skip("EARSHOT_SHARED is not set: no recordings of people")
    return recording(checkpoint.recording, Path(folder))


def params_of(case: Case, reference: Any) -> TranscriptionParams:
    options: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in case.options.items()
    }
    return TranscriptionParams(
        temperature=LADDER, seed=case.seed, vad=Vad.OFF, **(reference["thresholds"] | options)
    )


def window_end_s(case: Case, content: int, seek: int) -> float:
    """Where the audio of the window at a seek ends: segments of ours do not go past it.

    Args:
        case: whose clips count too.
        content: frames of the recording.
        seek: the window's first frame.
    """
    shape = case.checkpoint.shape
    given = case.options.get("clip_timestamps", [0.0])
    assert isinstance(given, list)
    clips = [round(100 * seconds) for seconds in given]
    if len(clips) % 2:
        clips.append(content)
    inside = [
        end for start, end in zip(clips[::2], clips[1::2], strict=True) if start <= seek < end
    ]
    return float(min(seek + 2 * shape.n_audio_ctx, content, *inside)) / 100


def compare(
    case: Case, content: int, heard: Heard, reference: dict[str, Any], tally: Tally
) -> None:
    """Compare up to the first divergence, which only a tie of the reference excuses."""
    tally.cases += 1
    theirs = [one for one in reference["decodings"] if one["tokens"]]
    for number, (found, expected) in enumerate(zip(heard.decodings, theirs, strict=False)):
        at = _first_difference(found, expected["tokens"])
        if at is None:
            tally.tokens += len(found)
            continue
        narrow = expected["narrow"]
        is_beam = "beam_size" in case.options and not expected["temperature"]
        margins = list(narrow.values()) if is_beam else [narrow.get(str(at), 1.0)]
        assert min(margins, default=1.0) < TIE_MARGIN, (number, at, found, expected)
        tally.tokens += at
        tally.ties += 1
        return
    assert len(heard.decodings) == len(theirs)
    for ours, their in zip(heard.done.segments, reference["segments"], strict=True):
        compare_segment(ours, their, window_end_s(case, content, their["seek"]))
    assert heard.done.language == reference["language"]


def _first_difference(found: list[int], expected: list[int]) -> int | None:
    if found == expected:
        return None
    pairs = zip(found, expected, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(found), len(expected)))


def compare_segment(ours: SegmentEvent, theirs: dict[str, Any], end_s: float) -> None:
    """Compare all fields; the reference clears what starts and ends at once, ours keeps it."""
    assert ours.seek == theirs["seek"]
    assert ours.start_s == pytest.approx(min(theirs["start"], end_s), abs=SECONDS_TOLERANCE)
    assert ours.end_s == pytest.approx(min(theirs["end"], end_s), abs=SECONDS_TOLERANCE)
    assert ours.temperature == theirs["temperature"]
    for name in ("avg_logprob", "compression_ratio", "no_speech_prob"):
        assert getattr(ours, name) == pytest.approx(theirs[name], abs=FIGURE_TOLERANCE), name
    if not theirs["tokens"]:
        assert theirs["start"] == theirs["end"]
        return
    assert list(ours.tokens) == theirs["tokens"]
    if "words" in theirs:
        assert ours.words is not None
        assert [word.word for word in ours.words] == [word[0] for word in theirs["words"]]
        for word, (_, start, end, probability) in zip(ours.words, theirs["words"], strict=True):
            assert word.start_s == pytest.approx(start, abs=SECONDS_TOLERANCE)
            assert word.end_s == pytest.approx(end, abs=SECONDS_TOLERANCE)
            assert word.probability == pytest.approx(probability, abs=FIGURE_TOLERANCE)


@pytest.mark.parametrize("checkpoint", CHECKPOINTS, ids=lambda checkpoint: checkpoint.shape.name)
def test_whole_recordings_are_transcribed_as_the_reference_does(
    checkpoint: Checkpoint, tmp_path: Path, recorded: Any, longform_tally: Tally
) -> None:
    cases = [case for case in CASES if case.checkpoint is checkpoint]
    audio, references = heard_by(checkpoint), [recorded[case.name] for case in cases]
    assert {one["weights_sha256"] for one in references} == {digest(longform.tensors(checkpoint))}
    if checkpoint.recording:
        assert {one["audio_sha256"] for one in references} == {samples_sha256(audio)}
    model = serve(checkpoint, tmp_path)
    jobs: list[Job] = [
        (audio, params_of(case, one)) for case, one in zip(cases, references, strict=True)
    ]
    together = transcribe(model, jobs, n_others=1 + N_OTHERS - len(jobs))
    for case, reference, heard in zip(cases, references, together, strict=True):
        compare(case, total_frames(len(audio)), heard, reference, longform_tally)
    longform_tally.checkpoints += 1
    shortest = min(range(len(jobs)), key=lambda n: len(references[n]["decodings"]))
    [alone] = transcribe(model, [jobs[shortest]])
    assert alone.decodings == together[shortest].decodings, f"neighbours changed case {shortest}"
    assert alone.done.segments == together[shortest].done.segments


def test_a_seed_repeats_a_sampled_transcript_whatever_runs_beside_it(tmp_path: Path) -> None:
    checkpoint = CHECKPOINTS[0]
    model, audio = serve(checkpoint, tmp_path), longform.audio(checkpoint)
    sampled = [
        TranscriptionParams(temperature=(0.6, 1.0), seed=seed, best_of=2, vad=Vad.OFF)
        for seed in (3, 4)
    ]
    [alone] = transcribe(model, [(audio, sampled[0])])
    many, other = transcribe(model, [(audio, params) for params in sampled], N_OTHERS - 1)
    assert many.decodings == alone.decodings
    assert many.done.segments == alone.done.segments
    assert other.decodings != alone.decodings, "its seed does not count"


def test_the_references_are_lively_and_fell_back_for_every_reason(recorded: Any) -> None:
    assert list(recorded) == [case.name for case in CASES]
    assert len(CHECKPOINTS) >= 12
    causes = sum((longform.causes_of(one) for one in recorded.values()), Counter[str]())
    assert min(causes[cause] for cause in CAUSES) >= 5
    decodings = [one for case in recorded.values() for one in case["decodings"]]
    assert {one["temperature"] for one in decodings} == set(LADDER)
    assert not [one for one in decodings if one["strays"]]
    lively = [len(set(one["tokens"])) >= 30 for one in decodings]
    assert sum(lively) > 0.75 * len(lively)
