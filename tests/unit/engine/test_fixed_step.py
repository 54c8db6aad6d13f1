"""Steps of fixed shapes: the same bits as any step, for the rows that decode, and nothing else."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from service.decoding.params import SequenceParams
from service.engine.fixed_step import FixedStep, StepShape, doubled
from service.engine.graphs import warm_up
from service.engine.runner import ModelRunner, RunnerConfig
from service.engine.shape_probe import differing_shapes, settle_shapes
from service.engine.types import Group, Sampled, Start
from service.model import WhisperConfig
from service.model.kv_cache import CacheView
from tests.unit.engine.company import PADDED, UNPADDED, Decoded, Job, decode, jobs, warm
from tests.unit.engine.fakes import EOT, SPECIAL, window
from tests.unit.engine.models import lively_model, small_config
from tests.unit.engine.recording import Recorded
from tests.unit.model.cpus import leave_out_what_is_compiled

FREE = SequenceParams((SPECIAL.sot, 103), 0, 40, suppress_tokens=(EOT,))


def runner_of(
    config: WhisperConfig, rows: int = 8, windows: int = 6, *, probe: bool = False
) -> ModelRunner:
    sizes = RunnerConfig(windows, rows, 1, probe=probe, fixed_shapes=True)
    return ModelRunner(lively_model(config), SPECIAL, sizes)


def step_of(runner: ModelRunner) -> FixedStep:
    assert runner.fixed_step is not None
    return runner.fixed_step


def mostly_single() -> list[Job]:
    """Jobs of which the first eight have one row each, every third of which samples."""
    company = jobs()[:11]
    for job in company[:8]:
        temperature = 0.7 if job.number % 3 == 0 else 0.0
        how = replace(job.params, beam_size=None, best_of=None, temperature=temperature)
        job.params = replace(how, max_tokens=25, suppress_tokens=(EOT,))
    return company


def as_it_is(step: FixedStep) -> Callable[[StepShape], None]:
    return step.run_operations


@pytest.mark.parametrize("config", [PADDED, UNPADDED], ids=["padded", "unpadded"])
@pytest.mark.parametrize("how", [as_it_is, Recorded], ids=["run", "recorded"])
def test_every_window_has_the_bits_of_an_eager_step_in_any_company(
    how: Callable[[FixedStep], Callable[[StepShape], None]],
    config: WhisperConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if how is Recorded:  # which is of torch's operations, as a GPU's graph is of its kernels
        leave_out_what_is_compiled(monkeypatch)
    model = lively_model(config)
    lonely = warm(ModelRunner(model, SPECIAL, RunnerConfig(20, 32, encode_batch=1)))
    company = mostly_single()
    alone: dict[int, Decoded] = {}
    for job in company:
        alone |= decode(lonely, [job], None)
    social = ModelRunner(model, SPECIAL, RunnerConfig(20, 32, 2, probe=False, fixed_shapes=True))
    run = how(step_of(social))
    step_of(social).run = run
    assert step_of(social).is_recorded == isinstance(run, Recorded)
    decoded = decode(social, company, random.Random(1))
    assert decoded == {number: alone[number] for number in decoded}
    assert len(decoded) > 6
    if isinstance(run, Recorded):
        assert run.n_replayed > 25


def everything(runner: ModelRunner) -> list[Tensor]:
    """All that a step may write, but the spare row."""
    rules, sampler, n_rows = runner.sampler.rules, runner.sampler, runner.cache.rows
    by_row = [
        rules._bias, rules._last, rules._penultimate, rules._latest, rules._timestamps,
        sampler._base, sampler._position, sampler._scores, sampler._temperature, runner._last,
    ]  # fmt: skip
    return [
        runner.cache.cross,
        runner.cache.self_[:, :, :n_rows],
        *(state[:n_rows] for state in by_row),
    ]


def started(runner: ModelRunner, n_rows: int) -> None:
    runner.encode([(slot, window(60, seed=slot)) for slot in range(n_rows)])
    sampled = replace(FREE, temperature=0.5)
    runner.prefill([Start(row, row, FREE if row % 2 else sampled) for row in range(n_rows)])


def test_idle_rows_change_nothing() -> None:
    runner = runner_of(small_config(rounding=64))
    started(runner, 6)
    step = step_of(runner)
    before = [part.clone() for part in everything(runner)]
    with torch.inference_mode():
        warm_up(step)
    for was, now in zip(before, everything(runner), strict=True):
        assert torch.equal(was, now)


def test_a_step_changes_its_own_rows_only() -> None:
    runner = runner_of(small_config())
    started(runner, 6)
    before = [part.clone() for part in everything(runner)]
    runner.decode([Group(0, 0, 3)])  # computes 4 rows
    after = everything(runner)
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[1][:, :, 3:], after[1][:, :, 3:])
    assert not torch.equal(before[1][:, :, :3], after[1][:, :, :3])
    for was, now in zip(before[2:], after[2:], strict=True):
        assert torch.equal(was[3:], now[3:])


def test_beams_and_single_rows_take_one_step_each_in_their_own_way() -> None:
    eager = ModelRunner(lively_model(small_config()), SPECIAL, RunnerConfig(6, 8, 1))
    beams = replace(FREE, beam_size=3)
    groups = [Group(0, 0, 2), Group(5, 5, 1, 3, is_beam=True)]
    steps = []
    for runner in (warm(eager), warm(runner_of(small_config(), probe=True))):
        runner.encode([(slot, window(60, seed=slot)) for slot in (0, 1, 5)])
        runner.prefill([Start(0, 0, FREE), Start(1, 1, FREE), Start(5, 5, beams)])
        steps.append([runner.decode(groups) for _ in range(4)])
    assert steps[0] == steps[1]


def test_rows_that_do_not_begin_at_the_first_are_decoded_all_the_same() -> None:
    runner = runner_of(small_config())
    started(runner, 4)
    ran: list[StepShape] = []
    step_of(runner).run = ran.append
    drawn = runner.decode([Group(2, 2, 2)])
    assert not ran
    assert [isinstance(one, Sampled) and not one.failed for one in drawn] == [True, True]


def test_nan_fails_its_row_only() -> None:
    runner = runner_of(small_config())
    started(runner, 3)
    runner.cache.self_[0, 0, 1, 0, 0, 0] = float("nan")
    drawn = [one for one in runner.decode([Group(0, 0, 3)]) if isinstance(one, Sampled)]
    assert [one.failed for one in drawn] == [False, True, False]
    assert runner.cache.self_[:, :, 1].eq(0).all()


def test_shapes_are_few_and_hold_every_step() -> None:
    runner = runner_of(replace(UNPADDED, n_text_layer=1, n_audio_layer=1), rows=70, windows=64)
    step = step_of(runner)
    assert {shape.n_rows for shape in step.shapes} == {1, 2, 4, 8, 16, 32, 64}
    assert {shape.n_key for shape in step.shapes} == {64, 128, 256, 448}
    assert {shape.n_cross for shape in step.shapes} == {256, 512, 1024, 1500}
    assert step.shapes[0] == StepShape(64, 448, 1500, with_noise=True)
    for n_rows in (1, 3, 64):
        for position in (0, 63, 64, 447):
            shape = step.shape_of([position] + [0] * (n_rows - 1))
            assert shape in step.shapes
            assert shape.n_rows >= n_rows
            assert shape.n_key > position


@pytest.mark.parametrize("config", [small_config(), UNPADDED], ids=["padded", "unpadded"])
def test_every_shape_draws_the_same(config: WhisperConfig) -> None:
    runner = runner_of(config, probe=True)
    runner.settle()
    with torch.inference_mode():
        assert differing_shapes(step_of(runner), runner.cache) == []
    assert runner.cache.self_.eq(0).all()


@pytest.mark.parametrize("by", ["rows", "keys"])
def test_shapes_that_differ_are_found_and_only_the_largest_is_kept(
    by: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runner = runner_of(small_config())
    step = step_of(runner)
    view = runner.cache.fixed_view

    def by_keys(*args: Any) -> CacheView:
        found = view(*args)
        return replace(found, self_kv=found.self_kv * (1 + 1e-5 * args[3]))

    def by_rows(_: nn.Module, __: tuple[Tensor], rows: Tensor) -> Tensor:
        return rows * (1 + 1e-5 * len(rows))

    if by == "rows":
        runner.model.decoder.ln.register_forward_hook(by_rows)
    else:
        monkeypatch.setattr(runner.cache, "fixed_view", by_keys)
    with torch.inference_mode(), caplog.at_level("WARNING"):
        settle_shapes(step, runner.cache)
    assert {"rows": "6 rows, 64 keys", "keys": "1 rows, 128 keys"}[by] in caplog.text
    assert step.shape_of([0]) == replace(step.shapes[0], with_noise=False)


@pytest.mark.parametrize(
    ("first", "last", "sizes"),
    [(1, 1, [1]), (1, 6, [1, 2, 4, 6]), (64, 448, [64, 128, 256, 448]), (64, 40, [40])],
)
def test_sizes_double_up_to_the_last(first: int, last: int, sizes: list[int]) -> None:
    assert doubled(first, last) == sizes


def test_warm_up_runs_every_shape_and_leaves_nothing_behind() -> None:
    fresh, warmed = runner_of(small_config()), runner_of(small_config())
    shapes: list[StepShape] = []
    operations = step_of(warmed).run_operations

    def noted(shape: StepShape) -> None:
        shapes.append(shape)
        operations(shape)

    step_of(warmed).run_operations = noted  # type: ignore[method-assign]
    warmed.warm_up()
    assert set(shapes) >= set(step_of(warmed).shapes)
    outcomes = []
    for runner in (fresh, warmed):
        started(runner, 3)
        outcomes.append([runner.decode([Group(0, 0, 3)]) for _ in range(5)])
    assert outcomes[0] == outcomes[1]
