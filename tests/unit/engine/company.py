"""Windows to be decoded in all ways, alone or in company that comes and goes at random."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from service.decoding.params import NoiseKey, SequenceParams
from service.engine.core import EngineCore
from service.engine.runner import ModelRunner
from service.engine.scheduler import Scheduler, SchedulerConfig
from service.engine.types import TokenStep, WindowInput
from tests.unit.engine.fakes import EOT, SPECIAL, window
from tests.unit.engine.models import small_config

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
