"""What can be done with a leased window: decoded with several hypotheses, detected, aligned."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import pytest
import torch

from service.decoding.params import AlignParams, DetectParams, NoiseKey, SequenceParams
from service.decoding.words import Alignment
from service.engine.core import EngineCore
from service.engine.runner import ModelRunner, RunnerConfig
from service.engine.scheduler import Scheduler, SchedulerConfig
from service.engine.types import Answer, Finish, Step, Task, TokenStep
from service.errors import DecodingFailed
from tests.unit.engine.company import warm
from tests.unit.engine.fakes import EOT, SPECIAL, FakeRunner, window
from tests.unit.engine.models import lively_model, small_config
from tests.unit.engine.running import all_free, run, started, until

ALIGN = AlignParams((SPECIAL.sot, SPECIAL.no_timestamps), (1, 2, 3), 60)
TEXT = SequenceParams((SPECIAL.sot, 103), 0, 12, timestamps=False, suppress_tokens=(EOT,))


def test_lease_is_detected_decoded_and_aligned_in_turn() -> None:
    async def main() -> None:
        async with started(FakeRunner(2, 4)) as engine:
            session = engine.session()
            async with session.window(window(7)) as lease:
                assert await lease.detect() == {7: 1.0}
                how = SequenceParams((101,), 0, 3, beam_size=3)
                tokens = [step.token_id async for step in lease.decode(how)]
                assert tokens == [1007, 1007, EOT]
                assert await lease.align(ALIGN) == Alignment((0.0, 7.0), (0.5,))
            session.close()
            await all_free(engine)

    run(main)


def test_session_has_begun_before_its_beams_have_a_token() -> None:
    async def main() -> None:
        gate = threading.Event()
        async with started(FakeRunner(2, 4, gate=gate)) as engine:
            session = engine.session()
            async with session.window(window(7)) as lease:
                stream = lease.decode(SequenceParams((101,), 0, 200, beam_size=3))
                await until(lambda: not session.is_waiting)
                assert stream._events.empty()  # and the gate keeps it so
                lease.close()
            session.close()
            gate.set()
            await all_free(engine)

    run(main)


@pytest.mark.parametrize("poison", ["nan", "poison_prefill"])
def test_window_that_fails_fails_alone_in_every_operation(poison: str) -> None:
    async def main() -> None:
        runner = FakeRunner(4, 8, encode_batch=4)
        getattr(runner, poison).add(13)
        async with started(runner) as engine:
            session = engine.session()

            async def detect(name: int) -> object:
                async with session.window(window(name)) as lease:
                    return await lease.detect()

            async def align(name: int) -> object:
                async with session.window(window(name)) as lease:
                    return await lease.align(ALIGN)

            work = [operation(name) for operation in (detect, align) for name in (12, 13, 14)]
            found = await asyncio.gather(*work, return_exceptions=True)
            assert [isinstance(one, DecodingFailed) for one in found] == [False, True, False] * 2
            session.close()
            await all_free(engine)

    run(main)


def core_of(runner: ModelRunner) -> EngineCore:
    config = runner.config
    return EngineCore(Scheduler(SchedulerConfig(config.windows, config.rows, EOT, 448, 4)), runner)


def runner_of(rows: int = 16, *, probe: bool = False) -> ModelRunner:
    config = RunnerConfig(windows=6, rows=rows, encode_batch=2, probe=probe)
    return ModelRunner(lively_model(small_config()), SPECIAL, config)


def work(core: EngineCore, tasks: list[Task]) -> list[list[Step]]:
    """Do all at once, the n-th in the n-th window."""
    for number, task in enumerate(tasks):
        core.scheduler.open(number, window(60, seed=number))
        core.scheduler.submit(number, number, task)
    found: list[list[Step]] = [[] for _ in tasks]
    while core.scheduler.has_work:
        for number, step in core.step():
            found[number].append(step)
    return found


def test_hypotheses_alone_and_among_others_have_the_same_bits() -> None:
    beam = replace(TEXT, beam_size=3)
    sampled = replace(TEXT, best_of=4, temperature=0.8, noise=NoiseKey(5))
    alone = work(core_of(warm(runner_of(probe=True))), [beam])
    company: list[Task] = [beam, TEXT, sampled, DetectParams(), ALIGN, beam]
    together = work(core_of(warm(runner_of(probe=True))), company)
    assert together[0] == alone[0]
    assert together[5] != together[0]
    lengths = [len(steps) for steps in together]
    assert lengths == [12, 12, 12, 1, 1, 12]


def test_beam_search_finds_more_probable_text_than_greedy_choices() -> None:
    greedy, beam = [
        work(core_of(runner_of()), [task])[0] for task in (TEXT, replace(TEXT, beam_size=5))
    ]
    totals = [
        sum(step.logprob for step in steps if isinstance(step, TokenStep))
        for steps in (greedy, beam)
    ]
    assert totals[1] > totals[0] + 0.01


def test_log_probabilities_of_beams_are_the_teacher_forced_ones() -> None:
    runner = runner_of()
    [steps] = work(core_of(runner), [replace(TEXT, beam_size=4)])
    tokens = [step.token_id for step in steps if isinstance(step, TokenStep)]
    assert steps[-1].finish is Finish.LENGTH
    core = core_of(runner)
    audio = window(60, seed=0)
    mel = runner._encoder._mel.windows([(audio.samples, 60, 2.0)], 400, runner.config.padding)
    with torch.inference_mode():
        teacher_forced = runner.model(mel, torch.tensor([[*TEXT.prompt, *tokens]]))
    logits = teacher_forced[0, 1:-1].clone()
    logits[:, EOT] = float("-inf")
    logits[0, SPECIAL.blank[0]] = float("-inf")
    logprobs = logits.log_softmax(-1)
    for step, row in zip(steps, logprobs, strict=True):
        assert isinstance(step, TokenStep)
        assert step.logprob == pytest.approx(row[step.token_id].item(), abs=1e-3)
    assert not core.scheduler.has_work


def test_nan_in_one_beam_fails_its_window_and_the_next_owner_is_well() -> None:
    runner = runner_of(rows=4)
    beam = replace(TEXT, beam_size=3)
    expected = work(core_of(runner), [beam])[0]
    core = core_of(runner)
    core.scheduler.open(1, window(60, seed=0))
    core.scheduler.submit(1, 1, beam)
    core.step()
    runner.cache.self_[0, 0, 2, 0, 0, 0] = float("nan")
    [(_, step)] = core.step()
    assert isinstance(step.error, DecodingFailed)
    assert work(core_of(runner), [beam])[0] == expected


def test_languages_are_probabilities_of_the_models_own_tokens() -> None:
    [[answer]] = work(core_of(runner_of()), [DetectParams()])
    assert isinstance(answer, Answer)
    assert isinstance(answer.result, dict)
    assert set(answer.result) == set(SPECIAL.languages)
    assert sum(answer.result.values()) == pytest.approx(1)


def test_model_without_languages_says_so() -> None:
    config = RunnerConfig(windows=2, rows=2, probe=False)
    special = replace(SPECIAL, languages=())
    runner = ModelRunner(lively_model(small_config()), special, config)
    [[step]] = work(core_of(runner), [DetectParams()])
    assert isinstance(step.error, DecodingFailed)
    assert "no languages" in step.error.message


def test_aligned_tokens_begin_one_after_the_other() -> None:
    task = AlignParams((SPECIAL.sot, SPECIAL.no_timestamps), tuple(range(20, 60)), 60)
    [[answer]] = work(core_of(runner_of()), [task])
    assert isinstance(answer, Answer)
    assert isinstance(answer.result, Alignment)
    starts_s, probabilities = answer.result.starts_s, answer.result.probabilities
    assert len(starts_s) == 41
    assert len(probabilities) == 40
    assert list(starts_s) == sorted(starts_s)
    assert 0 <= starts_s[0] <= starts_s[-1] < 0.6
    assert all(0 <= probability <= 1 for probability in probabilities)


def test_beams_of_a_short_window_keep_their_bits_beside_a_longer_one() -> None:
    """Several queries over masked keys are summed otherwise than over their own keys alone."""
    model = lively_model(small_config(n_audio_ctx=1500, rounding=64))
    config = RunnerConfig(windows=4, rows=16, encode_batch=1, probe=False)
    beam = replace(TEXT, beam_size=5)

    def decode(*n_frames: int) -> list[Step]:
        core = core_of(ModelRunner(model, SPECIAL, config))
        for number, length in enumerate(n_frames):
            core.scheduler.open(number, window(length, seed=length))
            core.scheduler.submit(number, number, beam)
        found: list[Step] = []
        while core.scheduler.has_work:
            found += [step for number, step in core.step() if number == 0]
        return found

    for n_frames in (320, 448, 512, 640):  # 160, 224, 256 and 320 positions
        assert decode(n_frames) == decode(n_frames, 1400)
