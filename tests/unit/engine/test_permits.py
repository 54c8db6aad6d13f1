"""When those who find no place are told to come back, by a clock that the test moves."""

from __future__ import annotations

import pytest

from service.engine.permits import Permits
from service.engine.session import Session
from service.errors import EngineBusy
from service.metrics import Metrics

LIMIT, ROWS = 12, 4


class Traffic:
    """Sessions that come and go; the first `ROWS` are being decoded, the others wait.

    What a session would call is not here: only who holds a permit is looked at.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self.permits = Permits(LIMIT, ROWS, Metrics(), clock=lambda: self.now)
        self.sessions: list[Session] = []

    def come(self) -> None:
        session = Session(None, self.now)  # type: ignore[arg-type]
        session.queued_at = self.now
        self.sessions.append(session)
        self.permits.add(session)
        self._serve()

    def leave(self) -> None:
        self.permits.remove(self.sessions.pop(0))
        self._serve()

    def _serve(self) -> None:
        for session in self.sessions[:ROWS]:
            session.began_at = session.began_at or self.now

    def rush(self, seconds: float, interval_s: float) -> None:
        """Keep every place taken while one request leaves each `interval_s`."""
        while len(self.sessions) < LIMIT:
            self.come()
        for _ in range(round(seconds / interval_s)):
            self.now += interval_s
            self.leave()
            self.come()


@pytest.mark.parametrize("interval_s", [0.25, 1.0, 3.0])
def test_they_are_told_when_those_who_wait_have_had_their_turn(interval_s: float) -> None:
    traffic = Traffic()
    traffic.rush(120.0, interval_s)
    with pytest.raises(EngineBusy) as refused:
        traffic.permits.check()
    n_waiting = LIMIT - ROWS
    assert refused.value.retry_after_s == pytest.approx((n_waiting + 1) * interval_s, rel=0.1)


def test_a_change_of_pace_shows_within_a_minute() -> None:
    traffic = Traffic()
    traffic.rush(120.0, 0.25)
    traffic.rush(60.0, 2.0)
    assert traffic.permits.retry_after_s() == pytest.approx(9 * 2.0, rel=0.5)


def test_an_engine_that_stands_still_sends_them_away_for_longer_and_longer() -> None:
    traffic = Traffic()
    traffic.rush(120.0, 1.0)
    told = []
    for _ in range(6):
        told.append(traffic.permits.retry_after_s())
        traffic.now += 20.0
    assert told == sorted(told)
    assert told[0] < 10
    assert told[-1] == 60.0


def test_a_quiet_hour_is_no_slow_hour() -> None:
    traffic = Traffic()
    traffic.rush(120.0, 1.0)
    before = traffic.permits.retry_after_s()
    while traffic.sessions:
        traffic.now += 1.0
        traffic.leave()
    traffic.now += 3600.0
    traffic.rush(1.0, 1.0)
    assert traffic.permits.retry_after_s() == pytest.approx(before, rel=0.2)


def test_requests_that_were_refused_for_what_they_asked_are_no_progress() -> None:
    traffic = Traffic()
    traffic.rush(120.0, 3.0)
    before = traffic.permits.retry_after_s()
    for _ in range(500):
        traffic.leave()
        refused = Session(None, traffic.now)  # type: ignore[arg-type]
        traffic.permits.add(refused)
        traffic.permits.remove(refused)
        traffic.come()
        traffic.sessions[0].queued_at = None
    assert traffic.permits.retry_after_s() == pytest.approx(before, rel=0.2)


def test_before_anything_is_measured_the_age_of_what_runs_is_all_there_is() -> None:
    traffic = Traffic()
    for _ in range(LIMIT):
        traffic.come()
    assert traffic.permits.retry_after_s() == 1.0
    traffic.now += 8.0
    assert 8.0 < traffic.permits.retry_after_s() <= 60.0
