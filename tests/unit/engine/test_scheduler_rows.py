"""The scheduler and sequences of several hypotheses, detections and alignments."""

from __future__ import annotations

import pytest

from service.decoding.params import AlignParams
from service.engine.core import groups
from service.engine.types import Answer, Finish, Start, TokenStep
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
