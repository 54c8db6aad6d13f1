"""A loop waits a moment in a crowd, and never when it has something to do."""

from __future__ import annotations

import asyncio
import socket

import pytest

from service.event_loop import PAUSE_S, CrowdSelector, new_event_loop


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was waited."""
    made: list[float] = []
    monkeypatch.setattr("service.event_loop.time.sleep", made.append)
    return made


@pytest.mark.parametrize(
    ("is_crowded", "timeout", "expected"),
    [
        (True, PAUSE_S / 2, [PAUSE_S]),
        (True, None, [PAUSE_S]),
        (True, 0, []),
        (False, PAUSE_S / 2, []),
    ],
)
def test_it_waits_in_a_crowd_unless_something_is_to_be_done_at_once(
    pauses: list[float], is_crowded: bool, timeout: float | None, expected: list[float]
) -> None:
    near, far = socket.socketpair()
    with CrowdSelector(lambda: is_crowded) as selector, near, far:
        key = selector.register(near, 1)
        if timeout is None:  # which would wait for ever
            far.send(b"x")
        assert selector.select(timeout) == ([(key, 1)] if timeout is None else [])
    assert pauses == expected


def test_timers_and_calls_of_other_threads_are_served_in_a_crowd() -> None:
    async def scenario() -> list[str]:
        done: list[str] = []
        loop = asyncio.get_running_loop()
        await asyncio.to_thread(loop.call_soon_threadsafe, done.append, "called")
        await asyncio.sleep(PAUSE_S / 4)
        return done

    with asyncio.Runner(loop_factory=lambda: new_event_loop(lambda: True)) as runner:
        assert runner.run(scenario()) == ["called"]
