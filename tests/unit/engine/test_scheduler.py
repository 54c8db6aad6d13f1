"""The scheduler: a state machine over random arrivals, steps and departures, and sharp edges."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.decoding.params import AlignParams, DetectParams
from service.engine.core import groups
from service.engine.scheduler import Batch, Scheduler
from service.engine.sequence import Window
from service.engine.types import Finish, MoveKind, Sampled, Task, TokenStep
from service.errors import DecodingFailed
from tests.unit.engine.fakes import EOT, FakeRunner, params, scheduler, several, take_step, window


class SchedulerMachine(RuleBasedStateMachine):
    """Windows come, are decoded once or more, and leave at any stage."""

    @initialize(
        windows=st.integers(1, 6),
        spare=st.integers(-9, 3),
        encode_batch=st.integers(1, 3),
        patience=st.integers(0, 7),
    )
    def build(self, windows: int, spare: int, encode_batch: int, patience: int) -> None:
        rows = max(1, windows - spare)
        self.core = scheduler(windows, rows, encode_batch, patience)
        self.runner = FakeRunner(windows, rows, encode_batch)
        self.next_id = 1
        self.open: list[int] = []
        self.arrivals: list[int] = []
        self.ranks: dict[int, int] = {}
        self.overtaken: dict[int, int] = {}

    def new_id(self) -> int:
        self.next_id += 1
        return self.next_id

    @rule(rank=st.integers(0, 4))
    def a_window_comes(self, rank: int) -> None:
        window_id = self.new_id()
        self.core.open(window_id, window(1 + window_id % 50, window_id), rank)
        self.open.append(window_id)
        self.ranks[window_id] = rank

    @rule(ranks=st.lists(st.integers(0, 4), min_size=2, max_size=6))
    def a_burst_comes(self, ranks: list[int]) -> None:
        for rank in ranks:
            self.a_window_comes(rank)
            self.core.submit(self.new_id(), self.open[-1], params(max_tokens=1))
            self.arrivals.append(self.open[-1])

    @rule()
    def whoever_is_through_leaves(self) -> None:
        for held in self.core.slots:
            if held is not None and held.sequence is None:
                self.core.close(held.id)
                self.open.remove(held.id)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), n_tokens=st.integers(1, 5), width=st.integers(1, 5), beam=st.booleans())
    def a_window_is_decoded(
        self, data: st.DataObject, n_tokens: int, width: int, beam: bool
    ) -> None:
        width = min(width, self.core.config.rows)
        self.submit(data, params(max_tokens=n_tokens, **several(width, beam)))

    @precondition(lambda self: self.open)
    @rule(data=st.data(), task=st.sampled_from([DetectParams(), AlignParams((101,), (1,), 9)]))
    def a_window_is_looked_at(self, data: st.DataObject, task: Task) -> None:
        self.submit(data, task)

    def submit(self, data: st.DataObject, task: Task) -> None:
        window_id = data.draw(st.sampled_from(self.open))
        self.core.submit(self.new_id(), window_id, task)
        if window_id not in self.arrivals:
            self.arrivals.append(window_id)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def a_client_leaves(self, data: st.DataObject) -> None:
        window_id = data.draw(st.sampled_from(self.open))
        self.core.close(window_id)
        self.open.remove(window_id)

    @precondition(lambda self: self.core.running or self.core.waiting)
    @rule(data=st.data())
    def a_sequence_is_cancelled(self, data: st.DataObject) -> None:
        alive = [*self.core.running, *self.core.waiting]
        self.core.release(data.draw(st.sampled_from(alive)).id)

    @rule(data=st.data())
    def the_engine_steps(self, data: st.DataObject) -> None:
        waiting, slots = self.core.waiting, self.core.slots
        running = self.core.running
        aligning = [sequence.only_aligns for sequence in waiting]
        batch = take_step(self.core, self.runner)
        assert batch.running == running, "a running row missed its step"
        assert batch.starting == waiting[: len(batch.starting)], "not in the order of the queue"
        self.nobody_is_passed_unfairly(batch, [w for w in slots if w is not None])
        taken = sum(s.n_rows for s in (*running, *batch.starting))
        n_starting = len(batch.starting)
        n_passes = passes(aligning[:n_starting], self.core.config.align_batch)
        assert n_passes <= self.core.encode_batch
        if n_passes < self.core.encode_batch and n_starting < len(waiting):
            stuck = waiting[n_starting]
            if taken + stuck.n_rows > self.core.config.rows:
                return
            holders = [w for w in slots if w is not None]
            new = [s for s in batch.starting if s.window not in holders]
            assert stuck.window not in holders
            assert len(holders) + len(new) == len(slots), "a window waits beside a free slot"

    def nobody_is_passed_unfairly(self, batch: Batch, held: list[Window]) -> None:
        """Compare with what is promised: not with how the queue is sorted."""
        waiting = [s.window for s in self.core.waiting]
        new = [s.window for s in batch.starting if s.window not in held]
        again = [s.window for s in batch.starting if s.window in held]
        if new:
            assert not [w for w in waiting if w in held], "a leased window waits for a new one"
            assert [s.window for s in batch.starting] == again + new
        for passing in new:
            for passed in waiting:
                if self.arrivals.index(passing.id) < self.arrivals.index(passed.id):
                    continue
                assert self.ranks[passing.id] < self.ranks[passed.id], "passed by an equal"
                self.overtaken[passed.id] = self.overtaken.get(passed.id, 0) + 1
                config = self.core.config
                rounds = min(config.rows, config.windows)
                patience = min(config.patience, rounds * self.ranks[passed.id])
                assert self.overtaken[passed.id] <= patience, "passed for ever"

    @invariant()
    def nothing_is_lost_or_held_twice(self) -> None:
        if hasattr(self, "core"):
            check(self.core, self.open)

    def teardown(self) -> None:
        """Every sequence ends, and everything is free when everyone has left."""
        if not hasattr(self, "core"):
            return
        for _ in range(200):
            if not self.core.has_work:
                break
            take_step(self.core, self.runner)
            idle = [w for w in self.core.slots if w is not None and w.sequence is None]
            if idle and self.core.waiting and not self.core.running:
                self.core.close(idle[0].id)
        for window_id in self.open:
            self.core.close(window_id)
        check(self.core, [])
        assert not self.core.running
        assert not self.core.waiting
        assert set(self.core.slots) == {None}


def passes(aligning: Iterable[bool], align_batch: int) -> int:
    """Return how often the model is asked: once for as many neighbouring texts as are aligned."""
    runs = ((aligns, len(list(run))) for aligns, run in itertools.groupby(aligning))
    return sum(-(-n // align_batch) if aligns else n for aligns, n in runs)


def check(core: Scheduler, open_windows: list[int]) -> None:
    """Rows are compacted and read their own slots, sequences wait or run, slots have one owner."""
    n_rows, kinds = 0, {sequence.kind for sequence in core.running}
    rows: set[int] = set()
    for sequence in core.running:
        assert sequence.row is not None
        assert sequence.window.slot is not None
        assert core.slots[sequence.window.slot] is sequence.window
        assert sequence.window.sequence is sequence
        rows |= set(range(sequence.row, sequence.row + sequence.n_rows))
        n_rows += sequence.n_rows
    assert len(rows) == n_rows == core.n_rows_used <= core.config.rows
    assert len(groups(core.running)) == len(kinds), "a kind does not stand side by side"
    for sequence in core.waiting:
        assert sequence.row is None
        assert sequence.window.sequence is sequence
    held = [w for w in core.slots if w is not None]
    assert len({id(w) for w in held}) == len(held)
    assert all(core.slots[w.slot or 0] is w for w in held)
    assert {w.id for w in held} <= set(open_windows)


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=80, stateful_step_count=40)


def test_burst_starts_no_more_than_the_encoder_batch_between_two_steps() -> None:
    core, runner = scheduler(8, 8, encode_batch=2), FakeRunner(8, 8)
    for number in range(8):
        core.open(number, window(number + 1))
        core.submit(100 + number, number, params(max_tokens=50))
    trace = [take_step(core, runner) for _ in range(5)]
    assert [len(batch.starting) for batch in trace] == [2, 2, 2, 2, 0]
    assert [len(batch.running) for batch in trace] == [0, 2, 4, 6, 8]


def test_window_and_row_are_taken_together_or_not_at_all() -> None:
    core, runner = scheduler(windows=3, rows=1), FakeRunner(3, 1)
    for number in range(2):
        core.open(number, window(number + 1))
        core.submit(100 + number, number, params())
    take_step(core, runner)
    assert [s.id for s in core.running] == [100]
    assert core.waiting[0].window.slot is None


def test_lease_keeps_its_slot_and_is_not_encoded_again() -> None:
    core, runner = scheduler(3, 3), FakeRunner(3, 3)
    core.open(1, window(7))
    core.submit(10, 1, params(max_tokens=1))
    take_step(core, runner)
    assert not core.running
    assert core.slots[0] is not None
    core.submit(11, 1, params(max_tokens=3))
    take_step(core, runner)
    encoded = [n for what, n in runner.log if what == "encode" and n]
    assert encoded == [1]
    assert [s.id for s in core.running] == [11]


def test_lease_that_waits_makes_room_for_the_next_row() -> None:
    core, runner = scheduler(2, 2), FakeRunner(2, 2)
    core.open(1, window(7))
    core.submit(10, 1, params(max_tokens=1))
    take_step(core, runner)
    core.open(2, window(8))
    core.submit(20, 2, params(max_tokens=9))
    batch = take_step(core, runner)
    assert [move.kind for move in batch.moves] == [MoveKind.WINDOW]
    core.submit(11, 1, params(max_tokens=9))
    take_step(core, runner)
    assert [s.window.id for s in core.running] == [2, 1]


def test_closing_a_running_window_copies_and_does_not_swap() -> None:
    core, runner = scheduler(3, 3, encode_batch=3), FakeRunner(3, 3)
    for number in range(3):
        core.open(number, window(number + 1))
        core.submit(100 + number, number, params())
    take_step(core, runner)
    core.close(0)
    moves = core.schedule().moves
    assert [move.kind for move in moves] == [MoveKind.ROW, MoveKind.WINDOW]
    assert [s.id for s in core.running] == [102, 101]


def test_decoding_a_window_again_replaces_what_decodes() -> None:
    core, runner = scheduler(), FakeRunner(4, 3)
    core.open(1, window(1))
    core.submit(10, 1, params())
    take_step(core, runner)
    core.submit(11, 1, params())
    assert not core.running
    assert [s.id for s in core.waiting] == [11]


@pytest.mark.parametrize(
    ("token", "max_tokens", "n_prompt", "finish"),
    [
        (EOT, 5, 1, Finish.EOT),
        (3, 1, 1, Finish.LENGTH),
        (EOT, 1, 1, Finish.EOT),
        (3, 5, 448, Finish.LENGTH),  # the decoder has no position left for the next token
        (3, 5, 447, None),
        (3, 5, 1, None),
    ],
)
def test_sequence_ends_where_the_reference_ends(
    token: int, max_tokens: int, n_prompt: int, finish: Finish | None
) -> None:
    core = scheduler()
    core.open(1, window(1))
    core.submit(10, 1, params((101,) * n_prompt, max_tokens))
    core.schedule()
    [(_, step)] = core.update({10: Sampled(token, -1.0)})
    assert isinstance(step, TokenStep)
    assert step.finish is finish
    assert bool(core.running) is (finish is None)


def test_failed_row_ends_with_an_error() -> None:
    core = scheduler()
    core.open(1, window(1))
    core.submit(10, 1, params())
    core.schedule()
    [(_, step)] = core.update({10: Sampled(3, float("nan"), failed=True)})
    assert step.finish is Finish.ERROR
    assert isinstance(step.error, DecodingFailed)
    assert not core.running


@pytest.mark.parametrize(("prompt", "max_tokens"), [((), 5), ((101,) * 449, 5), ((101,), 0)])
def test_prompt_that_does_not_fit_is_refused(prompt: tuple[int, ...], max_tokens: int) -> None:
    core = scheduler()
    core.open(1, window(1))
    with pytest.raises(DecodingFailed):
        core.submit(10, 1, params(prompt, max_tokens))
    assert not core.waiting


def test_decoding_a_closed_window_does_nothing() -> None:
    core = scheduler()
    core.open(1, window(1))
    core.close(1)
    core.submit(10, 1, params())
    assert not core.has_work
