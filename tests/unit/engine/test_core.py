"""One turn over a fake runner: only the culprit fails."""

from __future__ import annotations

import weakref

import pytest

from service.engine.core import EngineCore
from service.engine.types import Finish, RunnerDead, TokenStep
from service.errors import DecodingFailed
from tests.unit.engine.fakes import FakeRunner, params, scheduler, window

NAMES = (11, 12, 13, 14, 15)
"""Five windows, told apart by their length."""


def engine(runner: FakeRunner, encode_batch: int = 5) -> EngineCore:
    runner.encode_batch = encode_batch
    core = EngineCore(scheduler(8, 8), runner)
    core.warm_up()
    for name in NAMES:
        core.scheduler.open(name, window(name))
        core.scheduler.submit(100 + name, name, params(max_tokens=4))
    return core


def finished(core: EngineCore) -> dict[int, list[TokenStep]]:
    steps: dict[int, list[TokenStep]] = {100 + name: [] for name in NAMES}
    for _ in range(40):
        for sequence_id, step in core.step():
            assert isinstance(step, TokenStep)
            steps[sequence_id].append(step)
        if not core.scheduler.has_work:
            return steps
    raise AssertionError("sequences do not end")


def assert_only_13_failed(steps: dict[int, list[TokenStep]]) -> None:
    for name in NAMES:
        last = steps[100 + name][-1]
        if name == 13:
            assert last.finish is Finish.ERROR
            assert isinstance(last.error, DecodingFailed)
        else:
            assert last.finish is Finish.EOT
            assert [step.token_id for step in steps[100 + name][:-1]] == [name + 1000] * 3


def test_every_sequence_gets_its_own_tokens() -> None:
    steps = finished(engine(FakeRunner(8, 8)))
    for name in NAMES:
        assert [step.token_id for step in steps[100 + name][:-1]] == [name + 1000] * 3
        assert steps[100 + name][-1].finish is Finish.EOT


@pytest.mark.parametrize("stage", ["poison_encode", "poison_prefill", "poison_decode", "nan"])
@pytest.mark.parametrize("encode_batch", [1, 5])
def test_only_the_culprit_fails(stage: str, encode_batch: int) -> None:
    runner = FakeRunner(8, 8)
    getattr(runner, stage).add(13)
    core = engine(runner, encode_batch)
    assert_only_13_failed(finished(core))
    for name in NAMES:
        core.scheduler.close(name)
    assert set(core.scheduler.slots) == {None}


def test_failed_encoding_is_tried_again_by_the_next_attempt() -> None:
    runner = FakeRunner(8, 8, poison_encode={13})
    core = engine(runner)
    finished(core)
    runner.poison_encode.clear()
    core.scheduler.submit(200, 13, params(max_tokens=1))
    [(sequence_id, step)] = core.step()
    assert (sequence_id, step.finish) == (200, Finish.EOT)


def test_lost_device_ends_the_engine_and_not_a_sequence() -> None:
    runner = FakeRunner(8, 8)
    core = engine(runner)
    core.step()
    runner.lost = True
    with pytest.raises(RunnerDead):
        core.step()


def test_rows_that_run_decode_before_first_tokens_are_drawn() -> None:
    runner = FakeRunner(8, 8)
    core = engine(runner, encode_batch=2)
    core.turn()
    runner.log.clear()
    core.turn()
    assert [what for what, _ in runner.log] == ["encode", "decode", "prefill"]


def test_samples_are_let_go_once_they_are_encoded_and_not_before() -> None:
    core = engine(FakeRunner(8, 8, poison_encode={13}))
    opened = core.scheduler._windows
    samples = {name: weakref.ref(opened[name].input.samples) for name in NAMES}
    core.turn()
    assert {name for name in NAMES if samples[name]() is not None} == {13}


def test_turn_tells_what_was_done() -> None:
    core = engine(FakeRunner(8, 8), encode_batch=2)
    first, second = core.turn(), core.turn()
    assert first.encoded == [11, 12]
    assert first.started == [(111, 1), (112, 1)]
    assert first.n_running == 0
    assert second.n_running == 2
