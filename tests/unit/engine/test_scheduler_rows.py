"""The scheduler and sequences of several hypotheses, detections and alignments."""

from __future__ import annotations

import pytest

from service.decoding.params import AlignParams, DetectParams
from service.engine.core import groups
from service.engine.scheduler import Scheduler
from service.engine.types import Answer, Finish, Start, Task, TokenStep
from service.errors import DecodingFailed
from tests.unit.engine.fakes import (
    EOT,
    FakeRunner,
    params,
    params_of,
    row,
    scheduler,
    several,
    slot,
    take_step,
    window,
)


def test_rows_of_a_window_are_taken_together_or_not_at_all() -> None:
    core, runner = scheduler(windows=4, rows=7, encode_batch=4), FakeRunner(4, 7, 4)
    for number, width in enumerate((1, 5, 2, 1)):
        core.open(number, window(number + 1))
        core.submit(100 + number, number, params(**several(width, beam=True)))
    take_step(core, runner)
    assert [s.id for s in core.running] == [100, 101]
    assert [s.id for s in core.waiting] == [102, 103]
    assert core.waiting[0].window.slot is None
    core.close(1)
    take_step(core, runner)
    assert [s.id for s in core.running] == [100, 103, 102]


def test_more_hypotheses_than_rows_are_refused() -> None:
    core = scheduler(windows=2, rows=3)
    core.open(1, window(1))
    with pytest.raises(DecodingFailed, match="4 hypotheses at once, there are 3 decoder rows"):
        core.submit(10, 1, params(beam_size=4))


@pytest.mark.parametrize("beam", [True, False])
def test_several_hypotheses_come_out_together_at_the_end(beam: bool) -> None:
    core, runner = scheduler(windows=2, rows=6), FakeRunner(2, 6)
    core.open(1, window(7))
    core.submit(10, 1, params(max_tokens=3, **several(3, beam)))
    seen: list[TokenStep | Answer] = []
    for n_steps in range(3):
        assert not seen, f"a token after {n_steps} steps"
        batch = core.schedule()
        runner.move(batch.moves)
        if batch.starting:
            runner.encode([(slot(s), s.window.input) for s in batch.starting])
            drawn = runner.prefill([Start(row(s), slot(s), params_of(s)) for s in batch.starting])
        else:
            drawn = runner.decode(groups(batch.running))
        seen = [step for _, step in core.update({10: drawn[0]})]
    assert [step.token_id for step in seen if isinstance(step, TokenStep)] == [1007, 1007, EOT]
    assert [step.finish for step in seen] == [None, None, Finish.EOT]
    assert not core.running


@pytest.mark.parametrize(
    "task", [AlignParams((101,), (), 9), AlignParams((), (1,), 9), AlignParams((1,), (1,) * 447, 9)]
)
def test_text_that_cannot_be_aligned_is_refused(task: AlignParams) -> None:
    core = scheduler()
    core.open(1, window(1))
    with pytest.raises(DecodingFailed, match="cannot be aligned"):
        core.submit(10, 1, task)


ALIGN = AlignParams((101,), (1, 2), 9)


def leased(n_windows: int, encode_batch: int = 1) -> tuple[Scheduler, FakeRunner]:
    """A scheduler of eight windows, some of which are encoded and idle."""
    core, runner = scheduler(windows=8, rows=8, encode_batch=encode_batch), FakeRunner(8, 8)
    for number in range(n_windows):
        core.open(number, window(number + 1))
        core.submit(10 + number, number, DetectParams())
    while core.has_work:
        take_step(core, runner)
    return core, runner


def starts(core: Scheduler, runner: FakeRunner) -> list[list[int]]:
    found = []
    while core.waiting:
        found.append([sequence.id for sequence in take_step(core, runner).starting])
    return found


def test_alignments_that_wait_start_together_and_count_as_one_window() -> None:
    core, runner = leased(6)
    for number in range(6):
        core.submit(20 + number, number, ALIGN)
    core.open(6, window(7))
    core.submit(30, 6, params(max_tokens=1))
    assert starts(core, runner) == [[20, 21, 22, 23], [24, 25], [30]]


def test_alignments_leave_the_rest_of_a_step_to_windows() -> None:
    core, runner = leased(6, encode_batch=2)
    for number in range(6):
        core.submit(20 + number, number, ALIGN)
    core.open(6, window(7))
    core.submit(30, 6, params(max_tokens=1))
    assert starts(core, runner) == [[20, 21, 22, 23, 24, 25], [30]]


def test_alignment_waits_for_who_stands_before_it() -> None:
    core, runner = leased(4)
    tasks: list[Task] = [ALIGN, ALIGN, params(max_tokens=1), ALIGN]
    for number, task in enumerate(tasks):
        core.submit(20 + number, number, task)
    assert starts(core, runner) == [[20, 21], [22], [23]]


def test_alignment_of_a_window_that_is_not_encoded_starts_as_any_window() -> None:
    core, runner = leased(1)
    core.submit(20, 0, ALIGN)
    for number in (1, 2):
        core.open(number, window(number + 1))
        core.submit(20 + number, number, ALIGN)
    assert starts(core, runner) == [[20], [21], [22]]
