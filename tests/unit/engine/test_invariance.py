"""The promise: a window's tokens and log-probabilities have the same bits in any company.

On the real runner, through the real scheduler and core, with neighbours that join and leave at
random steps (docs/adr/0001-batch-invariance.md).
"""

from __future__ import annotations

import random

import pytest
import torch

from service.decoding.params import NoiseKey, SequenceParams
from service.engine.core import EngineCore
from service.engine.runner import ModelRunner, RunnerConfig
from service.engine.scheduler import Scheduler, SchedulerConfig
from service.engine.types import Finish, TokenStep
from service.model.numerics import choose_numerics
from service.model.packed import pack
from tests.unit.engine.company import PADDED, UNPADDED, Decoded, Job, decode, jobs, warm
from tests.unit.engine.fakes import EOT, SPECIAL, window
from tests.unit.engine.models import lively_model
from tests.unit.model.cpus import compiled, leave_out_what_is_compiled


@pytest.mark.parametrize("config", [PADDED, UNPADDED], ids=["padded", "unpadded"])
@pytest.mark.parametrize(
    ("dtype", "numerics", "decoder"),
    [
        (torch.float32, "plain", "by torch"),
        (torch.bfloat16, "plain", "by torch"),
        (torch.float32, "packed", "by torch"),
        (torch.float32, "bfloat16", "by torch"),
        (torch.float32, "bfloat16", "compiled"),
        (torch.float32, "mixed", "by torch"),
        (torch.float32, "mixed-decoder", "by torch"),
        (torch.float32, "mixed-decoder", "by torch, attention fused"),
        (torch.float32, "mixed-decoder", "compiled"),
        (torch.float32, "int8", "by torch"),
        (torch.float32, "int8", "compiled"),
    ],
)
def test_window_has_the_same_bits_alone_and_among_others(
    monkeypatch: pytest.MonkeyPatch,
    threads: int,
    dtype: torch.dtype,
    numerics: str,
    decoder: str,
    config: object,
) -> None:
    """With and without what is compiled, and the attention that a CPU may have instead of it."""
    fused_s = 0.5 if decoder.endswith("fused") else 1.0
    monkeypatch.setattr("service.model.timing.best_seconds", lambda *_, **__: [fused_s, 1.0])
    if decoder == "compiled":
        compiled()
    else:
        leave_out_what_is_compiled(monkeypatch)
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
