"""Whole recordings against openai-whisper's `transcribe()`, alone and among other requests.

References: `record_longform.py`. Every model is a random one, so what is compared is every rule of
the long form and nothing that a trained model would smooth over.
"""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from service.audio.mel import LogMelSpectrogram
from service.audio.windows import total_frames
from service.checkpoints import build_model, load_checkpoint
from service.decoding.params import SpecialTokens
from service.engine.core import EngineCore
from service.engine.engine import Engine, EngineConfig
from service.engine.runner import ModelRunner, RunnerConfig
from service.engine.scheduler import Scheduler, SchedulerConfig
from service.text.vocabulary import byte_alphabet
from service.transcription.events import Done, SegmentEvent
from service.transcription.params import ModelFacts, TranscriptionParams, Vad
from service.transcription.transcriber import Transcriber
from tests.parity import longform
from tests.parity.compare import Tally
from tests.parity.longform import CASES, CHECKPOINTS, DATA, LADDER, Case, Checkpoint
from tests.parity.recipes import TIE_MARGIN, digest, openai_dims, waveform

pytestmark = pytest.mark.timeout(600)

SECONDS_TOLERANCE = 0.02
FIGURE_TOLERANCE = 1e-3
OUR_LADDER = dict(zip(LADDER, (0.0, 1e-6, 2e-6), strict=True))
"""Ours really samples, so its temperatures are low enough that only ties could fall otherwise."""
N_NEIGHBOURS = 15
AMONG_OTHERS = ("short-windows", "five-languages")


@cache
def recorded() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(gzip.decompress(DATA.read_bytes()))
    return found


@dataclass(frozen=True)
class Served:
    """A checkpoint behind the real engine."""

    runner: ModelRunner
    transcriber: Transcriber


def write_tokenizer(folder: Path, checkpoint: Checkpoint) -> Path:
    letters = {byte: character for character, byte in byte_alphabet().items()}
    texts = ["".join(letters[byte] for byte in text) for text in longform.texts()]
    specials = longform.specials(checkpoint.languages)
    added = [*specials, *longform.timestamps(checkpoint.n_timestamps)]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    definition = {
        "version": "1.0",
        "added_tokens": [
            {"id": len(texts) + i, "content": text, **flags, "special": i < len(specials)}
            for i, text in enumerate(added)
        ],
        "pre_tokenizer": {**byte_level, "use_regex": True},
        "decoder": {**byte_level, "use_regex": True},
        "model": {"type": "BPE", "vocab": {t: i for i, t in enumerate(texts)}, "merges": []},
    }
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(definition), encoding="utf-8")
    return path


def served(checkpoint: Checkpoint, folder: Path, rows: int) -> Served:
    """Write the checkpoint as OpenAI does and read it as a user does."""
    tensors = longform.tensors(checkpoint)
    state = {name: torch.from_numpy(array) for name, array in tensors.items()}
    torch.save(
        {"dims": openai_dims(checkpoint.shape), "model_state_dict": state}, folder / "model.pt"
    )
    loaded = load_checkpoint(
        folder / "model.pt", tokenizer=str(write_tokenizer(folder, checkpoint))
    )
    tokenizer, config = loaded.tokenizer, loaded.config
    special = SpecialTokens.of(tokenizer, config.n_vocab)
    settings = RunnerConfig(rows, rows, encode_batch=1, probe=rows > 4)
    facts = ModelFacts(
        name=checkpoint.shape.name,
        n_vocab=config.n_vocab,
        n_text_ctx=config.n_text_ctx,
        max_frames=config.max_frames,
        suppress_tokens=(*loaded.generation.suppress_tokens, *longform.suppressed()),
        begin_suppress_tokens=loaded.generation.begin_suppress_tokens,
        max_initial_timestamp_index=loaded.generation.max_initial_timestamp_index,
    )
    runner = ModelRunner(build_model(loaded), special, settings)
    maximum = LogMelSpectrogram(config.n_mels).maximum
    return Served(runner, Transcriber(facts, tokenizer, maximum))


def params_of(case: Case) -> TranscriptionParams:
    options: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in case.options.items()
    }
    thresholds: dict[str, Any] = recorded()[case.name]["thresholds"]
    ladder = tuple(OUR_LADDER.values())
    return TranscriptionParams(temperature=ladder, vad=Vad.OFF, **(thresholds | options))


def run(model: Served, jobs: Sequence[tuple[Any, TranscriptionParams]]) -> list[Done]:
    """Transcribe all jobs at the same time."""

    async def scenario() -> list[Done]:
        rows, tokenizer = model.runner.config.rows, model.transcriber.tokenizer
        n_text_ctx = model.transcriber.facts.n_text_ctx
        scheduler = Scheduler(SchedulerConfig(rows, rows, tokenizer.eot, n_text_ctx))
        engine = Engine(EngineCore(scheduler, model.runner), config=EngineConfig(len(jobs)))
        engine.start()
        await engine.until_ready()
        opened = [
            model.transcriber.open(audio, params, engine.session(), request_id="r")
            for audio, params in jobs
        ]
        try:
            return list(await asyncio.gather(*(each.result() for each in opened)))
        finally:
            for each in opened:
                each.close()
            await engine.stop(0.0)

    return asyncio.run(scenario())


def window_end_s(case: Case, seek: int) -> float:
    """Where the audio of the window at a seek ends: segments of ours do not go past it."""
    shape = case.checkpoint.shape
    content = total_frames(round(case.checkpoint.seconds * longform.SECOND))
    given = case.options.get("clip_timestamps", [0.0])
    assert isinstance(given, list)
    clips = [round(100 * seconds) for seconds in given]
    if len(clips) % 2:
        clips.append(content)
    inside = [
        end for start, end in zip(clips[::2], clips[1::2], strict=True) if start <= seek < end
    ]
    return float(min(seek + 2 * shape.n_audio_ctx, content, *inside)) / 100


def compare(case: Case, done: Done, tally: Tally) -> None:
    """Compare up to the first divergence, which only a tie of the reference excuses."""
    reference = recorded()[case.name]
    theirs = [segment for segment in reference["segments"] if segment["tokens"]]
    in_window = 0
    for place, expected in enumerate(theirs):
        ours = done.segments[place] if place < len(done.segments) else None
        if place and theirs[place - 1]["seek"] != expected["seek"]:
            in_window = 0
        found = [] if ours is None else list(ours.tokens)
        if found != expected["tokens"]:
            pairs = zip(found, expected["tokens"], strict=False)
            at = next((i for i, (a, b) in enumerate(pairs) if a != b), len(found))
            assert _is_tie(reference, in_window + at), (place, expected, ours)
            tally.ties += 1
            return
        assert ours is not None
        tally.tokens += len(found)
        in_window += len(found)
        compare_segment(case, ours, expected)
    assert len(done.segments) == len(theirs)
    assert done.language == reference["language"]


def _is_tie(reference: dict[str, Any], position: int) -> bool:
    margins = [each.get(str(position)) for each in reference["margins"]]
    return any(margin is not None and float(margin) < TIE_MARGIN for margin in margins)


def compare_segment(case: Case, ours: SegmentEvent, theirs: dict[str, Any]) -> None:
    end_s = window_end_s(case, theirs["seek"])
    assert ours.seek == theirs["seek"]
    assert ours.start_s == pytest.approx(min(theirs["start"], end_s), abs=SECONDS_TOLERANCE)
    assert ours.end_s == pytest.approx(min(theirs["end"], end_s), abs=SECONDS_TOLERANCE)
    assert ours.temperature == OUR_LADDER[theirs["temperature"]]
    for name in ("avg_logprob", "compression_ratio", "no_speech_prob"):
        assert getattr(ours, name) == pytest.approx(theirs[name], abs=FIGURE_TOLERANCE), name
    if "words" in theirs:
        assert ours.words is not None
        assert [word.word for word in ours.words] == [word[0] for word in theirs["words"]]
        for word, (_, start, end, probability) in zip(ours.words, theirs["words"], strict=True):
            assert word.start_s == pytest.approx(start, abs=SECONDS_TOLERANCE)
            assert word.end_s == pytest.approx(end, abs=SECONDS_TOLERANCE)
            assert word.probability == pytest.approx(probability, abs=FIGURE_TOLERANCE)


@pytest.mark.parametrize("checkpoint", CHECKPOINTS, ids=lambda checkpoint: checkpoint.shape.name)
def test_whole_recordings_are_transcribed_as_the_reference_does(
    checkpoint: Checkpoint, tmp_path: Path, tally: Tally
) -> None:
    cases = [case for case in CASES if case.checkpoint is checkpoint]
    sha256 = {recorded()[case.name]["weights_sha256"] for case in cases}
    assert sha256 == {digest(longform.tensors(checkpoint))}, "not the weights of the recording"
    among_others = checkpoint.shape.name in AMONG_OTHERS
    model = served(checkpoint, tmp_path, rows=N_NEIGHBOURS + 1 if among_others else 4)
    jobs: list[tuple[Any, TranscriptionParams]] = [
        (longform.audio(checkpoint), params_of(case)) for case in cases
    ]
    if among_others:
        for row in range(1, N_NEIGHBOURS + 1):
            audio = waveform(checkpoint.shape.seed, row, len(jobs[0][0]) // 2)
            jobs.append((audio, TranscriptionParams(temperature=(0.0, 0.5), languages=())))
    for case, done in zip(cases, run(model, jobs)[: len(cases)], strict=True):
        compare(case, done, tally)
    assert tally.ties <= 1 + tally.tokens / 1000
    tally.checkpoints += 1


def test_the_references_fell_back_for_every_reason() -> None:
    temperatures = {s["temperature"] for case in recorded().values() for s in case["segments"]}
    assert temperatures == {LADDER[0], LADDER[-1]}
    assert len(CHECKPOINTS) >= 12
