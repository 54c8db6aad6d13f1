"""An alarm goes off when it was set for last, and only then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from service.alarm import Alarm


async def rung(use: Callable[[Alarm, Callable[[], object]], None]) -> list[float]:
    """Return the seconds after which an alarm went off, within a fifth of one."""
    loop, found = asyncio.get_running_loop(), list[float]()
    alarm, began_at = Alarm(loop), loop.time()
    use(alarm, lambda: found.append(loop.time() - began_at))
    await asyncio.sleep(0.2)
    alarm.close()
    return found


def test_it_goes_off_once() -> None:
    (at_s,) = asyncio.run(rung(lambda alarm, ring: alarm.set(0.02, ring)))
    assert at_s >= 0.019


def test_it_may_be_put_off() -> None:
    def use(alarm: Alarm, ring: Callable[[], object]) -> None:
        alarm.set(0.01, ring)
        alarm.set(0.08, ring)

    (at_s,) = asyncio.run(rung(use))
    assert at_s >= 0.079


def test_it_may_be_set_for_sooner() -> None:
    def use(alarm: Alarm, ring: Callable[[], object]) -> None:
        alarm.set(60.0, ring)
        alarm.set(0.01, ring)

    assert len(asyncio.run(rung(use))) == 1


def test_what_is_cleared_or_closed_is_silent() -> None:
    def use(alarm: Alarm, ring: Callable[[], object]) -> None:
        alarm.set(0.01, ring)
        alarm.clear()
        assert alarm.at is None

    def close(alarm: Alarm, ring: Callable[[], object]) -> None:
        alarm.set(0.01, ring)
        alarm.close()

    assert asyncio.run(rung(use)) == []
    assert asyncio.run(rung(close)) == []


def test_it_may_be_set_after_it_was_cleared() -> None:
    def use(alarm: Alarm, ring: Callable[[], object]) -> None:
        alarm.set(0.01, lambda: None)
        alarm.clear()
        alarm.set(0.05, ring)

    (at_s,) = asyncio.run(rung(use))
    assert at_s >= 0.049


def test_of_two_calls_the_last_is_made() -> None:
    def use(alarm: Alarm, ring: Callable[[], object]) -> None:
        alarm.set(0.01, lambda: 1 / 0)
        alarm.set(0.03, ring)

    assert len(asyncio.run(rung(use))) == 1
