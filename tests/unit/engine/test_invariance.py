"""The promise: a window's tokens and log-probabilities have the same bits in any company.

On the real runner, through the real scheduler and core, with neighbours that join and leave at
random steps (docs/adr/0001-batch-invariance.md).
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from service.decoding.params import NoiseKey, SequenceParams
from service.engine.core import EngineCore
from service.engine.runner import ModelRunner, RunnerConfig
from service.engine.scheduler import Scheduler, SchedulerConfig
from service.engine.types import Finish, TokenStep, WindowInput
from service.model.numerics import choose_numerics
from service.model.packed import pack
from tests.unit.engine.fakes import EOT, SPECIAL, window
from tests.unit.engine.models import lively_model, small_config

N_WINDOWS = 16
PADDED = small_config(n_audio_ctx=1500)
UNPADDED = small_config(n_audio_ctx=1500, rounding=64)
"""Short windows matter: torch chooses a convolution by the size of the batch there."""

Decoded = list[tuple[int, float, float | None]]


@dataclass
class Job:
    """One window with its way of decoding; no two are alike."""

    number: int
    input: WindowInput
    params: SequenceParams
    steps: Decoded = field(default_factory=list)

    @property
    def ended(self) -> bool:
        return len(self.steps) == self.params.max_tokens or self.steps[-1][0] == EOT


def jobs() -> list[Job]:
    rng = random.Random(1)
    made = []
    for number in range(N_WINDOWS):
        several: dict[str, Any] = rng.choice(
            [{}, {}, {"beam_size": 3}, {"beam_size": 5}, {"best_of": 3}]
        )
        temperature = rng.choice([0.0, 0.0, 0.7]) if not several else 0.7 * ("best_of" in several)
        prompt = (*rng.choices(range(100), k=rng.choice([0, 0, 5, 40])), SPECIAL.sot, 103)
        params = SequenceParams(
            prompt,
            sot_index=len(prompt) - 2,
            max_tokens=rng.choice([3, 12, 20, 45]),
            temperature=temperature,
            noise=NoiseKey(seed=number),
            timestamps=rng.random() < 0.7,
            suppress_tokens=(7, 8, 9) if number % 3 else (),
            **several,
        )
        made.append(Job(number, window(rng.randint(20, 900), seed=number), params))
    return made


def warm(runner: ModelRunner) -> ModelRunner:
    """Let the probe settle on rows and batches, as it does before anything is served.

    How many rows it takes is the processor's: on some, 4 rows of a matrix differ from 8.
    """
    runner.warm_up()
    return runner


def decode(runner: ModelRunner, wanted: list[Job], rng: random.Random | None) -> dict[int, Decoded]:
    """Decode jobs, with `rng` arriving at random steps and some of them leaving early."""
    config = SchedulerConfig(20, 32, EOT, 448, runner.encode_batch)
    core = EngineCore(Scheduler(config), runner)
    late = list(wanted)
    decoded: dict[int, Decoded] = {job.number: [] for job in wanted}
    left: set[int] = set()
    while late or core.scheduler.has_work:
        for _ in range(len(late) if rng is None else rng.randint(0, 3)):
            if late:
                job = late.pop()
                core.scheduler.open(job.number, job.input)
                core.scheduler.submit(100 + job.number, job.number, job.params)
        for sequence_id, step in core.step():
            assert isinstance(step, TokenStep)
            assert step.error is None
            number = sequence_id - 100
            decoded[number].append((step.token_id, step.logprob, step.no_speech_prob))
            if step.finish is not None and rng is not None and rng.random() < 0.5:
                core.scheduler.close(number)
        if rng is not None and core.scheduler.running and rng.random() < 0.06:
            leaver = rng.choice(core.scheduler.running).window.id
            core.scheduler.close(leaver)
            left.add(leaver)
    return {number: steps for number, steps in decoded.items() if number not in left}


@pytest.mark.parametrize("config", [PADDED, UNPADDED], ids=["padded", "unpadded"])
@pytest.mark.parametrize(
    ("dtype", "numerics"),
    [
        (torch.float32, "plain"),
        (torch.bfloat16, "plain"),
        (torch.float32, "packed"),
        (torch.float32, "bfloat16"),
        (torch.float32, "mixed"),
    ],
    ids=["float32", "bfloat16", "packed", "packed bfloat16", "mixed"],
)
def test_window_has_the_same_bits_alone_and_among_others(
    threads: int, dtype: torch.dtype, numerics: str, config: object
) -> None:
    assert config is PADDED or config is UNPADDED
    model = lively_model(PADDED if config is PADDED else UNPADDED, dtype)
    try:
        pack(model, choose_numerics(numerics, torch.device("cpu"), dtype))
    except ValueError as error:
        pytest.skip(str(error))
    everyone = jobs()
    lonely = warm(ModelRunner(model, SPECIAL, RunnerConfig(20, 32, encode_batch=1)))
    alone: dict[int, Decoded] = {}
    for job in everyone:
        alone |= decode(lonely, [job], None)
    tokens = {token for steps in alone.values() for token, _, _ in steps}
    assert len(tokens) > 40, "a model that always says the same proves nothing"
    social = warm(ModelRunner(model, SPECIAL, RunnerConfig(20, 32, encode_batch=3)))
    rng = random.Random(threads)
    n_compared = 0
    for n_neighbours in (1, 3, 7, 15):
        company = rng.sample(everyone, n_neighbours + 1)
        for number, steps in decode(social, company, rng).items():
            assert steps == alone[number], f"window {number} beside {n_neighbours}"
            n_compared += 1
    assert n_compared >= 15


def test_sampled_decoding_with_a_seed_repeats_and_another_seed_differs() -> None:
    runner = warm(
        ModelRunner(lively_model(UNPADDED), SPECIAL, RunnerConfig(20, 32, encode_batch=2))
    )
    audio = window(200, seed=3)

    def tokens(seed: int, beside: list[Job]) -> list[int]:
        how = SequenceParams(
            (SPECIAL.sot,), 0, 30, temperature=1.0, noise=NoiseKey(seed), suppress_tokens=(EOT,)
        )
        decoded = decode(runner, [Job(99, audio, how), *beside], None)
        return [token for token, _, _ in decoded[99]]

    assert tokens(1, []) == tokens(1, jobs()[:6]) != tokens(2, [])


def test_each_attempt_on_a_lease_has_the_bits_of_a_fresh_window() -> None:
    """Neighbours' rows come and go between the attempts, so the lease is moved about."""
    runner = warm(
        ModelRunner(lively_model(UNPADDED), SPECIAL, RunnerConfig(20, 32, encode_batch=2))
    )
    how = SequenceParams((SPECIAL.sot,), 0, 12, suppress_tokens=(EOT,))
    alone = decode(runner, [Job(0, window(150, seed=9), how)], None)[0]
    core = EngineCore(Scheduler(SchedulerConfig(6, 8, EOT, 448, 2)), runner)
    neighbours = jobs()[:8]
    core.scheduler.open(50, window(150, seed=9))
    for attempt in range(4):
        core.scheduler.submit(500 + attempt, 50, how)
        for job in neighbours[2 * attempt : 2 * attempt + 2]:
            core.scheduler.open(job.number, job.input)
            core.scheduler.submit(100 + job.number, job.number, job.params)
        steps: Decoded = []
        while len(steps) < 12:
            for sequence_id, step in core.step():
                assert isinstance(step, TokenStep)
                if sequence_id == 500 + attempt:
                    steps.append((step.token_id, step.logprob, step.no_speech_prob))
                elif step.finish in {Finish.EOT, Finish.LENGTH}:
                    core.scheduler.close(sequence_id - 100)
        assert steps == alone
