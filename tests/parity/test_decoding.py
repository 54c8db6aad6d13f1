"""openai-whisper's `decode()`, `detect_language()` and word times, by our engine, all at once.

The cases of a checkpoint are decoded together: greedy ones, beams of several widths, prompts and
prefixes share the steps of one live batch.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from service.audio.mel import CONTEXT_SAMPLES, Padding
from service.checkpoints import build_model, load_checkpoint
from service.decoding.params import AlignParams, DetectParams, SequenceParams, SpecialTokens
from service.decoding.words import Alignment, TimedSegment, align_words, time_segments
from service.engine.core import EngineCore
from service.engine.runner import ModelRunner, RunnerConfig
from service.engine.scheduler import Scheduler, SchedulerConfig
from service.engine.types import Answer, Finish, Task, TokenStep, WindowInput
from service.text.tokenizer import WhisperTokenizer
from service.text.vocabulary import byte_alphabet
from tests.parity.compare import DecodingTally
from tests.parity.decoding_recipes import N_LANGUAGES, TALKATIVE, Case, cases, talkative_tensors
from tests.parity.recipes import TIE_MARGIN, Shape, digest, openai_dims, waveform
from tests.parity.vocabulary import tokenizer_definition

pytestmark = pytest.mark.timeout(900)
FILE = Path(__file__).parent / "data" / "decoding.json.gz"
ROWS = 64


@pytest.fixture(scope="module")
def recorded() -> Any:
    return json.loads(gzip.decompress(FILE.read_bytes()))


@dataclass
class Ours:
    """A checkpoint in our engine."""

    shape: Shape
    tokenizer: WhisperTokenizer
    runner: ModelRunner

    def window(self, row: int) -> WindowInput:
        """A window as `decode()` takes it: its samples alone, mirrored at both ends."""
        samples = waveform(self.shape.seed, row, self.shape.n_samples)
        return WindowInput(np.pad(samples, CONTEXT_SAMPLES, mode="reflect"), len(samples) // 160)

    def params(self, case: Case, recorded: Any, non_speech: list[int]) -> SequenceParams:
        """The options of `whisper.DecodingOptions` as our engine has them.

        The non-speech tokens are the recorded ones: this vocabulary has no merges.
        """
        options, tokenizer = case.options, self.tokenizer
        timestamps = not options.get("without_timestamps", False)
        task = options.get("task", "transcribe")
        sot = tokenizer.sot_sequence(options["language"], task, timestamps)
        previous: tuple[int, ...] = ()
        if "prompt" in options:
            longest = self.shape.n_text_ctx // 2 - 1
            previous = (tokenizer.sot_prev, *options["prompt"][-longest:])
        requested = options["suppress_tokens"]
        if isinstance(requested, str):
            requested = non_speech if requested == "-1" else []
        return SequenceParams(
            prompt=(*previous, *sot, *options.get("prefix", ())),
            sot_index=len(previous),
            max_tokens=options["sample_len"],
            timestamps=timestamps,
            suppress_blank=options.get("suppress_blank", True),
            suppress_tokens=tokenizer.suppressed(requested),
            max_initial_timestamp_index=recorded["max_initial_timestamp_index"],
            beam_size=options.get("beam_size"),
            patience=options.get("patience"),
            length_penalty=options.get("length_penalty"),
        )

    def run(self, tasks: list[tuple[int, Task]]) -> list[list[TokenStep | Answer]]:
        """Do everything at once, each in a window of its own -> the steps of each."""
        config = SchedulerConfig(len(tasks), ROWS, self.tokenizer.eot, self.shape.n_text_ctx, 8)
        core = EngineCore(Scheduler(config), self.runner)
        for number, (row, task) in enumerate(tasks):
            core.scheduler.open(number, self.window(row))
            core.scheduler.submit(number, number, task)
        found: list[list[TokenStep | Answer]] = [[] for _ in tasks]
        while core.scheduler.has_work:
            for number, step in core.step():
                found[number].append(step)
        return found


@pytest.fixture(params=TALKATIVE, ids=lambda shape: shape.name)
def ours(request: pytest.FixtureRequest, tmp_path: Path, recorded: Any) -> Ours:
    shape: Shape = request.param
    tensors = talkative_tensors(shape)
    assert digest(tensors) == recorded[shape.name]["weights_sha256"], "other weights"
    state = {name: torch.from_numpy(array) for name, array in tensors.items()}
    torch.save({"dims": openai_dims(shape), "model_state_dict": state}, tmp_path / "model.pt")
    alphabet = {byte: character for character, byte in byte_alphabet().items()}
    definition = tokenizer_definition(shape.n_vocab, N_LANGUAGES, alphabet)
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition), encoding="utf-8")
    checkpoint = load_checkpoint(tmp_path / "model.pt", tokenizer=str(tmp_path / "tokenizer.json"))
    tokenizer = checkpoint.tokenizer
    special = SpecialTokens.of(tokenizer, shape.n_vocab)
    heads = checkpoint.generation.alignment_heads
    config = RunnerConfig(20, ROWS, 4, Padding.MEL, probe=False, alignment_heads=heads)
    return Ours(shape, tokenizer, ModelRunner(build_model(checkpoint), special, config))


def assert_decoded(steps: list[TokenStep | Answer], reference: Any, tally: DecodingTally) -> None:
    """Compare with the reference; only a tie of its own excuses a divergence."""
    tokens = [s for s in steps if isinstance(s, TokenStep)]
    assert all(step.error is None for step in tokens)
    found = [step.token_id for step in tokens if step.finish is not Finish.EOT]
    expected = reference["tokens"]
    tally.cases += 1
    if found != expected:
        same = [a == b for a, b in zip(found, expected, strict=False)]
        at = same.index(False) if False in same else len(same)
        narrow = [m for step, m in reference["narrow"].items() if int(step) <= at]
        is_beam = "beam" in reference["name"]
        is_tie = bool(narrow) if is_beam else str(at) in reference["narrow"]
        assert is_tie, f"{reference['name']}: differs at {at}: {found} for {expected}"
        assert min(narrow) < TIE_MARGIN
        tally.tokens += at
        tally.ties += 1
        return
    tally.tokens += len(found)
    average = sum(step.logprob for step in tokens) / (len(found) + 1)
    assert average == pytest.approx(reference["avg_logprob"], abs=1e-4)
    assert tokens[0].no_speech_prob == pytest.approx(reference["no_speech_prob"], abs=1e-5)


def test_openai_whisper_decoded_the_same_in_a_live_batch(
    ours: Ours, recorded: Any, decoding_tally: DecodingTally
) -> None:
    references = recorded[ours.shape.name]["cases"]
    non_speech = recorded[ours.shape.name]["non_speech"]
    tasks: list[tuple[int, Task]] = [
        (case.row, ours.params(case, reference, non_speech))
        for case, reference in zip(cases(ours.shape), references, strict=True)
    ]
    together = ours.run(tasks)
    for steps, reference in zip(together, references, strict=True):
        assert_decoded(steps, reference, decoding_tally)
    decoding_tally.checkpoints += 1
    for number in (0, 2):
        assert ours.run([tasks[number]])[0] == together[number], "its neighbours changed it"


def test_openai_whisper_told_languages_the_same(ours: Ours, recorded: Any) -> None:
    found = ours.run([(row, DetectParams()) for row in range(ours.shape.rows)])
    for row, expected in enumerate(recorded[ours.shape.name]["languages"]):
        [answer] = found[row]
        assert isinstance(answer, Answer)
        assert isinstance(answer.result, dict)
        codes = {code: answer.result[token] for code, token in ours.tokenizer.languages.items()}
        assert codes == pytest.approx(expected, abs=1e-4)


def test_openai_whisper_placed_words_at_the_same_times(ours: Ours, recorded: Any) -> None:
    references = recorded[ours.shape.name]["words"]
    languages = ("en", "zh")
    tasks: list[tuple[int, Task]] = []
    for row, (reference, language) in enumerate(zip(references, languages, strict=False)):
        prompt = ours.tokenizer.sot_sequence(language, "transcribe", timestamps=False)
        tasks.append((row, AlignParams(prompt, tuple(reference["tokens"]), reference["n_frames"])))
    found = ours.run(tasks)
    for [answer], reference, language in zip(found, references, languages, strict=False):
        assert isinstance(answer, Answer)
        assert isinstance(answer.result, Alignment)
        words = align_words(reference["tokens"], answer.result, ours.tokenizer, language)
        assert len(words) == len(reference["words"])
        for word, (text, tokens, start_s, end_s, probability) in zip(
            words, reference["words"], strict=True
        ):
            assert (word.text, list(word.tokens)) == (text, tokens)
            assert word.start_s == pytest.approx(start_s, abs=0.0201)
            assert word.end_s == pytest.approx(end_s, abs=0.0201)
            assert word.probability == pytest.approx(probability, abs=1e-4)
        assert_segments(words, reference)


def assert_segments(words: Any, reference: Any) -> None:
    tokens, half = reference["tokens"], len(reference["tokens"]) // 2
    parts = (tuple(tokens[:half]), tuple(tokens[half:]))
    given = [
        TimedSegment(start_s, end_s, part)
        for (start_s, end_s), part in zip(reference["given"], parts, strict=True)
    ]
    segments = time_segments(given, words, offset_s=7.0, last_speech_s=5.0)
    for segment, (start_s, end_s, own) in zip(segments, reference["segments"], strict=True):
        assert segment.start_s == pytest.approx(start_s, abs=0.05)
        assert segment.end_s == pytest.approx(end_s, abs=0.05)
        assert [word.text for word in segment.words] == [text for text, _, _ in own]
        for word, (_, word_start_s, word_end_s) in zip(segment.words, own, strict=True):
            assert word.start_s == pytest.approx(word_start_s, abs=0.05)
            assert word.end_s == pytest.approx(word_end_s, abs=0.05)


def test_ties_are_rare(decoding_tally: DecodingTally) -> None:
    assert decoding_tally.ties * 1000 <= decoding_tally.tokens
