"""An engine in this process, on a device, under loads and checks that are the same everywhere.

Knows nothing about tables or other engines.
"""

from __future__ import annotations

import itertools
import math
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import psutil
import torch

from benchmarks.random_model import tokenizer_of
from service.audio.filterbank import CONTEXT_SAMPLES, HOP_LENGTH
from service.decoding.params import NoiseKey, SequenceParams, SpecialTokens
from service.engine.core import EngineCore
from service.engine.runner import ModelRunner, RunnerConfig
from service.engine.scheduler import Scheduler, SchedulerConfig
from service.engine.types import Finish, Group, Start, TokenStep, WindowInput
from service.model import WhisperConfig, WhisperModel

WINDOW_S = 30.0
ROUNDS = 30
_N_RECORDINGS = 8
_EMBEDDED = 0.02
"""Standard deviation of embeddings: with wider ones a model repeats its last token."""
_CANCELLED = 0.02
"""Share of turns in which somebody leaves."""

Decoded = list[tuple[int, float]]


def wait_for(device: torch.device) -> None:
    """Let the host wait until the device has done everything."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def held_mb(device: torch.device) -> float:
    """Return the memory that is held: of the device, or of this process."""
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device) / 1e6
    return float(psutil.Process().memory_info().rss / 1e6)


def random_model(config: WhisperConfig, device: torch.device, dtype: torch.dtype) -> WhisperModel:
    """Return a model with random weights, made on the device, that does not always say the same."""
    torch.manual_seed(0)
    with torch.device(device), torch.no_grad():
        model = WhisperModel(config)
        model.decoder.token_embedding.weight.normal_(0, _EMBEDDED)
        model.decoder.positional_embedding.normal_(0, _EMBEDDED)
    return model.to(dtype).requires_grad_(False).eval()


def recordings(config: WhisperConfig) -> list[WindowInput]:
    """Return windows of noise, each a recording of its own, as long as a window is."""
    rng = np.random.default_rng(0)
    n_samples = config.max_frames * HOP_LENGTH + 2 * CONTEXT_SAMPLES
    noise = rng.normal(0, 0.1, (_N_RECORDINGS, n_samples)).astype(np.float32)
    return [WindowInput(samples, config.max_frames) for samples in noise]


@dataclass(slots=True)
class Soaked:
    """What a soak saw: windows that ended, were left and failed; memory before and after, in MB."""

    ended: int = 0
    left: int = 0
    failed: int = 0
    before_mb: float = 0.0
    after_mb: float = 0.0
    slots_held: int = 0


@dataclass(slots=True)
class Bench:
    """A model with its runner.

    Attributes:
        model: with random weights.
        slots: windows, and rows of one hypothesis, at the same time.
        n_tokens: that each window says.
        fixed_shapes: as in `RunnerConfig`.
        start_s: how long `warm_up` took.
    """

    model: WhisperModel
    slots: int
    n_tokens: int
    fixed_shapes: bool = True
    start_s: float = 0.0
    runner: ModelRunner = field(init=False)
    params: SequenceParams = field(init=False)

    def __post_init__(self) -> None:
        n_vocab = self.model.config.n_vocab
        special = SpecialTokens.of(tokenizer_of(n_vocab), n_vocab)
        sizes = RunnerConfig(self.slots, self.slots, fixed_shapes=self.fixed_shapes)
        self.runner = ModelRunner(self.model, special, sizes)
        prompt = (special.sot, special.languages[0], special.sot + 1)
        self.params = SequenceParams(prompt, 0, self.n_tokens, suppress_tokens=(special.eot,))

    def warm_up(self) -> None:
        """Do what a service does before it is ready."""
        began = time.perf_counter()
        self.runner.warm_up()
        wait_for(self.model.device)
        self.start_s = time.perf_counter() - began

    def core(self) -> EngineCore:
        """Return an engine core with nothing to do, over the runner."""
        config = self.model.config
        sizes = SchedulerConfig(
            self.slots, self.slots, self.runner.special.eot, config.n_text_ctx,
            self.runner.encode_batch,
        )  # fmt: skip
        return EngineCore(Scheduler(sizes), self.runner)

    def windows_a_second(self, seconds: float) -> float:
        """Return the rate at which windows end while all slots are taken, PCM to last token."""
        core, audio = self.core(), recordings(self.model.config)
        names = itertools.count()
        n_ended, counted_from, began = 0, 2 * self.slots, 0.0
        while True:
            while len(core.scheduler.waiting) < self.slots:
                name = next(names)
                core.scheduler.open(name, audio[name % len(audio)])
                core.scheduler.submit(name, name, self.params)
            for name, step in core.step():
                if step.finish is not None:
                    core.scheduler.close(name)
                    n_ended += 1
            now = time.perf_counter()
            if n_ended >= counted_from and not began:
                began, counted_from = now, n_ended
            elif began and now - began > seconds and n_ended > counted_from:
                return (n_ended - counted_from) / (now - began)

    def step_s(self, n_rows: int) -> tuple[float, float]:
        """Return the times of a step of so many rows: of the device alone, and with the host.

        The latter is from the host's orders to the answer it has read, the median. About 64 tokens
        have been said before, as the floor has it.
        """
        audio = recordings(self.model.config)
        self.runner.encode([(slot, audio[slot % len(audio)]) for slot in range(n_rows)])
        prompt = self.params.prompt * (64 // len(self.params.prompt))
        params = replace(self.params, prompt=prompt)
        self.runner.prefill([Start(row, row, params) for row in range(n_rows)])
        times = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            self.runner.decode([Group(0, 0, n_rows)])
            times.append(time.perf_counter() - began)
        return self._on_device_s(n_rows), statistics.median(times)

    def _on_device_s(self, n_rows: int) -> float:
        """Return the time of one of many steps that the host orders without reading answers."""
        step = self.runner.fixed_step
        if step is None:
            return math.nan
        shape = step.shape_of([64] * n_rows)
        wait_for(self.model.device)
        began = time.perf_counter()
        for _ in range(ROUNDS):
            step.run(shape)
        wait_for(self.model.device)
        return (time.perf_counter() - began) / ROUNDS

    def host_s(self) -> float:
        """Return the CPU time that a turn with all slots taken costs the host, nothing decoded.

        Schedule, numbers to the device and back, and the account of what was drawn.
        """
        step, core, audio = self.runner.fixed_step, self.core(), recordings(self.model.config)
        if step is None:
            return math.nan
        core.scheduler.encode_batch = self.slots
        for name in range(self.slots):
            core.scheduler.open(name, audio[name % len(audio)])
            core.scheduler.submit(name, name, self.params)
        core.step()
        run, step.run = step.run, lambda _: None
        n_turns = min(ROUNDS, self.n_tokens - 1)
        began = time.thread_time()
        for _ in range(n_turns):
            core.step()
        seconds = (time.thread_time() - began) / n_turns
        step.run = run
        return seconds

    def decoded(self, chosen: Sequence[int], at_once: int) -> dict[int, Decoded]:
        """Return what windows say of which so many are decoded at once, others beside the last."""
        audio = recordings(self.model.config)
        found: dict[int, Decoded] = {number: [] for number in chosen}
        for first in range(0, len(chosen), at_once):
            core = self.core()
            company = [*chosen[first : first + at_once]]
            company += [-place for place in range(1, at_once - len(company) + 1)]
            for number in company:
                params = replace(self.params, noise=NoiseKey(number))
                core.scheduler.open(number, audio[number % len(audio)])
                core.scheduler.submit(number, number, params)
            while core.scheduler.has_work:
                for number, step in core.step():
                    if isinstance(step, TokenStep) and number in found:
                        found[number].append((step.token_id, step.logprob))
        return found

    def soak(self, seconds: float) -> Soaked:
        """Decode in all ways while people come and leave at random, for so many seconds."""
        rng, core, seen = random.Random(0), self.core(), Soaked()
        audio, names = recordings(self.model.config), itertools.count()
        ways: list[dict[str, Any]] = [
            {},
            {},
            {"temperature": 0.7},
            {"beam_size": min(5, self.slots)},
        ]
        began, before = time.perf_counter(), None
        while time.perf_counter() - began < seconds or core.scheduler.has_work:
            is_over = time.perf_counter() - began >= seconds
            if not is_over and len(core.scheduler.waiting) < self.slots:
                name = next(names)
                how = replace(self.params, noise=NoiseKey(name), **rng.choice(ways))
                core.scheduler.open(name, audio[name % len(audio)])
                core.scheduler.submit(name, name, how)
            if core.scheduler.running and (is_over or rng.random() < _CANCELLED):
                core.scheduler.close(rng.choice(core.scheduler.running).window.id)
                seen.left += 1
            for name, step in core.step():
                if step.finish is not None:
                    core.scheduler.close(name)
                    seen.ended += step.finish is not Finish.ERROR
                    seen.failed += step.finish is Finish.ERROR
            if before is None and time.perf_counter() - began > seconds / 3:
                before = held_mb(self.model.device)
        seen.before_mb = before or held_mb(self.model.device)
        seen.after_mb = held_mb(self.model.device)
        seen.slots_held = sum(window is not None for window in core.scheduler.slots)
        return seen
