"""A checkpoint of `TALKATIVE` in our engine, its steps taken one after the other.

No event loop and no thread: what is compared here is what the engine decodes, for all at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from service.audio.filterbank import CONTEXT_SAMPLES
from service.audio.mel import Padding
from service.decoding.params import NoiseKey, SequenceParams
from service.engine.core import EngineCore
from service.engine.runner import ModelRunner, RunnerConfig
from service.engine.scheduler import Scheduler, SchedulerConfig
from service.engine.types import Answer, Task, TokenStep, WindowInput
from service.text.tokenizer import WhisperTokenizer
from tests.parity.decoding_recipes import N_LANGUAGES, talkative_tensors
from tests.parity.recipes import Shape, digest, waveform
from tests.parity.served import runner_of, write_checkpoint
from tests.parity.vocabulary import n_text_of, special_tokens, text_tokens

Steps = list[TokenStep | Answer]
WINDOWS, ROWS = 32, 72
N_OTHERS = 15
_DRAWN_TOGETHER = 16


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

    def params(
        self, options: dict[str, Any], latest: int | None, non_speech: Any
    ) -> SequenceParams:
        """The options of `whisper.DecodingOptions` as our engine has them.

        Args:
            options: those of the reference.
            latest: the latest first timestamp, in positions.
            non_speech: the recorded tokens of that list: this vocabulary has no merges.
        """
        tokenizer = self.tokenizer
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
            max_initial_timestamp_index=latest,
            beam_size=options.get("beam_size"),
            patience=options.get("patience"),
            length_penalty=options.get("length_penalty"),
        )

    def others(self, n_tokens: int) -> list[tuple[int, Task]]:
        """15 requests of all kinds, each of which goes on for `n_tokens`."""
        plain = SequenceParams(
            self.tokenizer.sot_sequence("en", "transcribe", timestamps=True), 0, n_tokens,
            suppress_tokens=self.tokenizer.suppressed([self.tokenizer.eot]),
        )  # fmt: skip
        text = self.tokenizer.sot_sequence("es", "transcribe", timestamps=False)
        kinds = (
            plain,
            replace(plain, prompt=text, timestamps=False),
            replace(plain, beam_size=3),
            replace(plain, temperature=0.8, noise=NoiseKey(5)),
            replace(plain, temperature=0.4, noise=NoiseKey(6), best_of=2),
        )
        return [(2 + number, kinds[number % len(kinds)]) for number in range(N_OTHERS)]

    def run(self, tasks: Sequence[tuple[int, Task]]) -> list[Steps]:
        """Do everything at once, each in a window of its own -> the steps of each."""
        core = self._core()
        for number, (row, task) in enumerate(tasks):
            core.scheduler.open(number, self.window(row))
            core.scheduler.submit(number, number, task)
        found: list[Steps] = [[] for _ in tasks]
        while core.scheduler.has_work:
            for number, step in core.step():
                found[number].append(step)
        return found

    def draws(self, row: int, tasks: Sequence[SequenceParams]) -> list[int]:
        """Decode one window again and again -> the last token of each decoding."""
        core, found = self._core(), [-1] * len(tasks)
        for window in range(_DRAWN_TOGETHER):
            core.scheduler.open(window, self.window(row))
            core.scheduler.submit(window, window, tasks[window])
        while core.scheduler.has_work:
            for number, step in core.step():
                assert isinstance(step, TokenStep)
                found[number] = step.token_id
                following = number + _DRAWN_TOGETHER
                if step.finish is not None and following < len(tasks):
                    window = number % _DRAWN_TOGETHER
                    core.scheduler.submit(following, window, tasks[following])
        return found

    def _core(self) -> EngineCore:
        n_text_ctx, eot = self.shape.n_text_ctx, self.tokenizer.eot
        return EngineCore(
            Scheduler(SchedulerConfig(WINDOWS, ROWS, eot, n_text_ctx, 16)), self.runner
        )


def load(shape: Shape, folder: Path, sha256: str) -> Ours:
    """Return the checkpoint of a shape, its files in `folder`."""
    tensors = talkative_tensors(shape)
    assert digest(tensors) == sha256, "not the weights of the recording"
    text, special = text_tokens(n_text_of(shape.n_vocab, N_LANGUAGES)), special_tokens(N_LANGUAGES)
    checkpoint = write_checkpoint(folder, shape, tensors, text, special)
    heads = checkpoint.generation.alignment_heads
    config = RunnerConfig(WINDOWS, ROWS, 4, Padding.MEL, alignment_heads=heads)
    return Ours(shape, checkpoint.tokenizer, runner_of(checkpoint, config))
