"""Whose window is next: short recordings pass long ones, and nobody is passed for ever."""

from __future__ import annotations

from service.engine.scheduler import Scheduler, SchedulerConfig
from tests.unit.engine.fakes import EOT, FakeRunner, params, scheduler, take_step, window


def test_short_requests_do_not_wait_behind_long_ones() -> None:
    """Forty long files are at their fourth window when somebody comes with a short one."""
    core, runner = scheduler(4, 4, encode_batch=4), FakeRunner(4, 4)
    for number in range(1, 41):
        core.open(number, window(number), rank=3)
        core.submit(1000 + number, number, params(max_tokens=1))
    core.open(50, window(50))
    core.submit(1050, 50, params(max_tokens=1))
    started = order_of_starts(core, runner)
    assert started.index(50) == 40 - (3 * 4 - 1), "it passes three rounds of four rows, less a tie"
    assert [n for n in started if n != 50] == list(range(1, 41))


def test_a_long_file_goes_on_however_many_short_requests_come() -> None:
    core, runner = scheduler(2, 2, encode_batch=2, patience=9), FakeRunner(2, 2)
    for number in (1, 2, 3):
        core.open(number, window(number), rank=200)
        core.submit(1000 + number, number, params(max_tokens=1))
    started: list[int] = []
    for number in range(10, 40, 2):  # as many come as can start
        for short in (number, number + 1):
            core.open(short, window(short))
            core.submit(1000 + short, short, params(max_tokens=1))
        started += closed([s.window.id for s in take_step(core, runner).starting], core)
    passed = [number for number in started[: started.index(1)] if number >= 10]
    assert 0 < len(passed) <= 9
    assert started[started.index(1) :][:5].count(2) == 1


def test_the_next_window_of_a_request_waits_for_a_round_of_others() -> None:
    config = SchedulerConfig(windows=8, rows=8, eot=EOT, n_text_ctx=448, patience=20)
    assert [config.gives_way(rank) for rank in range(5)] == [0, 8, 16, 20, 20]


def test_lease_of_a_long_file_cannot_be_locked_out_by_short_ones() -> None:
    """It holds the only slot that those who are ahead of it wait for."""
    core, runner = scheduler(1, 1), FakeRunner(1, 1)
    core.open(1, window(1), rank=3)
    core.submit(10, 1, params(max_tokens=1))
    take_step(core, runner)
    core.open(2, window(2))
    core.submit(20, 2, params(max_tokens=1))
    core.submit(11, 1, params(max_tokens=1))
    assert core.has_work
    assert [s.id for s in take_step(core, runner).starting] == [11]


def test_attempt_on_a_lease_goes_before_windows_that_came_later() -> None:
    core, runner = scheduler(1, 1), FakeRunner(1, 1)
    for number in (1, 2):
        core.open(number, window(number))
        core.submit(10 * number, number, params(max_tokens=1))
    take_step(core, runner)
    assert not core.has_work  # the slot is leased: the second window can only wait
    core.submit(11, 1, params(max_tokens=1))
    assert [s.id for s in take_step(core, runner).starting] == [11]


def test_window_opened_early_but_decoded_late_does_not_lock_the_queue() -> None:
    core, runner = scheduler(1, 1), FakeRunner(1, 1)
    core.open(1, window(1))
    core.open(2, window(2))
    core.submit(20, 2, params(max_tokens=1))
    take_step(core, runner)
    core.submit(10, 1, params())
    core.submit(21, 2, params(max_tokens=1))
    assert [s.id for s in take_step(core, runner).starting] == [21]


def order_of_starts(core: Scheduler, runner: FakeRunner) -> list[int]:
    started: list[int] = []
    while core.has_work:
        started += closed([s.window.id for s in take_step(core, runner).starting], core)
    return started


def closed(windows: list[int], core: Scheduler) -> list[int]:
    for window_id in windows:
        core.close(window_id)
    return windows
