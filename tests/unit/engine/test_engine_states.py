"""The engine over a fake runner: starting, refusing, counting, draining, dying."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from service.engine.core import EngineCore
from service.engine.engine import Engine, EngineConfig, EngineState
from service.engine.hosts import ThreadHost
from service.engine.types import SessionClosed
from service.errors import (
    EngineBusy,
    EngineDead,
    EngineDraining,
    EngineStarting,
)
from service.metrics import Metrics
from tests.unit.engine.fakes import FakeRunner, params, scheduler, window
from tests.unit.engine.running import DEADLINE_S, all_free, run, started, transcribe, until


def test_session_is_refused_before_the_engine_is_warm() -> None:
    async def main() -> None:
        runner = FakeRunner(1, 1, gate=threading.Event(), gated="warm_up")
        engine = Engine(ThreadHost(EngineCore(scheduler(1, 1), runner)), config=EngineConfig(1))
        with pytest.raises(EngineStarting):
            engine.session()
        engine.start()
        await asyncio.to_thread(runner.at_gate.wait)
        with pytest.raises(EngineStarting):
            engine.session()
        assert runner.gate is not None
        runner.gate.set()
        await engine.until_ready()
        engine.session().close()
        await engine.stop(0)

    run(main)


def test_session_beyond_the_limit_is_refused_and_told_when_to_return() -> None:
    async def main() -> None:
        async with started(FakeRunner(1, 1), max_requests=2) as engine:
            first, _second = engine.session(), engine.session()
            with pytest.raises(EngineBusy, match="2 requests") as refused:
                engine.session()
            assert 1 <= refused.value.retry_after_s <= 60
            first.close()
            first.close()
            engine.session()
            with pytest.raises(EngineBusy):
                engine.session()

    run(main)


def test_closed_session_and_closed_window_are_refused() -> None:
    async def main() -> None:
        async with started(FakeRunner(1, 1)) as engine:
            session = engine.session()
            lease = session.window(window(1))
            lease.close()
            with pytest.raises(SessionClosed):
                lease.decode(params())
            session.close()
            with pytest.raises(SessionClosed):
                session.window(window(1))

    run(main)


def test_dead_device_ends_every_stream_and_tells_the_process() -> None:
    async def main() -> None:
        deaths: list[str] = []
        runner = FakeRunner(2, 2, gate=threading.Event())
        engine = Engine(
            ThreadHost(EngineCore(scheduler(2, 2), runner)),
            config=EngineConfig(8),
            on_dead=deaths.append,
        )
        engine.start()
        await engine.until_ready()
        sessions = [engine.session() for _ in range(4)]
        tasks = [
            asyncio.create_task(transcribe(session, name, 30))
            for name, session in enumerate(sessions, 1)
        ]
        await asyncio.to_thread(runner.at_gate.wait)
        runner.lost = True
        assert runner.gate is not None
        runner.gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(result) for result in results] == [EngineDead] * 4
        assert engine.state is EngineState.DEAD
        assert len(deaths) == 1
        with pytest.raises(EngineDead):
            engine.session()
        with pytest.raises(EngineDead):
            sessions[0].window(window(9)).decode(params())
        for session in sessions:
            session.close()
        await engine.stop(1)
        assert engine.state is EngineState.DEAD

    run(main)


def test_engine_that_cannot_warm_up_is_dead() -> None:
    async def main() -> None:
        engine = Engine(
            ThreadHost(EngineCore(scheduler(1, 1), FakeRunner(1, 1, lost=True))),
            config=EngineConfig(1),
        )
        engine.start()
        with pytest.raises(EngineDead):
            await engine.until_ready()
        await engine.stop(0)

    run(main)


def test_who_is_cancelled_while_the_engine_warms_up_leaves_no_thread() -> None:
    async def main() -> None:
        before = set(threading.enumerate())
        runner = FakeRunner(1, 1, gate=threading.Event(), gated="warm_up")
        engine = Engine(ThreadHost(EngineCore(scheduler(1, 1), runner)), config=EngineConfig(1))
        engine.start()
        waiting = asyncio.create_task(engine.until_ready())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.sleep(0)
        assert runner.gate is not None
        runner.gate.set()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert set(threading.enumerate()) <= before

    run(main)


def test_draining_refuses_the_new_and_finishes_the_old() -> None:
    async def main() -> None:
        runner = FakeRunner(1, 1, gate=threading.Event())
        async with started(runner) as engine:
            session = engine.session()
            reader = asyncio.create_task(transcribe(session, 1))
            await asyncio.to_thread(runner.at_gate.wait)
            stopping = asyncio.create_task(engine.stop(DEADLINE_S))
            await asyncio.sleep(0)
            assert engine.state is EngineState.DRAINING
            with pytest.raises(EngineDraining):
                engine.session()
            assert runner.gate is not None
            runner.gate.set()
            assert (await reader)[-1] == 100
            assert not stopping.done()
            session.close()
            await stopping

    run(main)


def test_end_of_the_grace_fails_what_still_runs() -> None:
    async def main() -> None:
        runner = FakeRunner(1, 1, gate=threading.Event())
        async with started(runner) as engine:
            session = engine.session()
            lease = session.window(window(1))
            reader = asyncio.create_task(anext(lease.decode(params(max_tokens=400))))
            await asyncio.to_thread(runner.at_gate.wait)
            await reader
            stream = lease.decode(params(max_tokens=400))
            stopping = asyncio.create_task(engine.stop(0))
            with pytest.raises(EngineDraining):
                [step async for step in stream]
            assert runner.gate is not None
            runner.gate.set()
            await stopping
            with pytest.raises(EngineDraining):
                lease.decode(params())
            session.close()

    run(main)


def test_stopping_twice_or_unstarted_is_harmless() -> None:
    async def main() -> None:
        engine = Engine(
            ThreadHost(EngineCore(scheduler(1, 1), FakeRunner(1, 1))), config=EngineConfig(1)
        )
        await engine.stop(0)
        async with started(FakeRunner(1, 1)) as other:
            await other.stop(0)

    run(main)


def test_one_callback_a_step_reaches_the_loop() -> None:
    async def main() -> None:
        runner = FakeRunner(8, 8, encode_batch=8, gate=threading.Event(), gated="encode")
        async with started(runner) as engine:
            loop = asyncio.get_running_loop()
            calls = 0
            original = loop.call_soon_threadsafe

            def counting(*args: Any, **kwargs: Any) -> asyncio.Handle:
                nonlocal calls
                calls += 1
                return original(*args, **kwargs)

            before = int(str(engine.stats()["steps"]))
            readers = [
                asyncio.create_task(transcribe(engine.session(), name, 20)) for name in range(1, 9)
            ]
            await asyncio.to_thread(runner.at_gate.wait)
            loop.call_soon_threadsafe = counting  # type: ignore[assignment, method-assign]
            assert runner.gate is not None
            runner.gate.set()
            tokens = await asyncio.gather(*readers)
            del loop.call_soon_threadsafe
            await until(lambda: engine.stats()["step_running_s"] is None)
            steps = int(str(engine.stats()["steps"])) - before
            assert sum(len(t) for t in tokens) == 160
            assert calls == steps
            assert steps <= 21, "who comes while the first step runs is in the second"

    run(main)


def test_what_happened_is_counted() -> None:
    async def main() -> None:
        metrics = Metrics()
        async with started(FakeRunner(2, 2), metrics=metrics) as engine:
            session = engine.session()
            assert metrics.requests_running._value.get() == 1
            assert metrics.requests_waiting._value.get() == 1
            await transcribe(session, 1, 5)
            assert metrics.requests_waiting._value.get() == 0
            session.close()
            await all_free(engine)
        page = metrics.render().decode()
        for line in (
            'earshot_tokens_total{kind="prompt"} 1.0',
            'earshot_tokens_total{kind="generated"} 5.0',
            "earshot_inter_token_seconds_count 4.0",
            "earshot_queue_seconds_count 1.0",
            "earshot_window_slots_total 2.0",
            "earshot_requests_running 0.0",
            "earshot_queue_capacity 64.0",
        ):
            assert line in page

    run(main)


def test_queue_time_begins_when_the_first_window_is_there() -> None:
    """Before that the request is uploading, which is no queue."""

    async def main() -> None:
        metrics = Metrics()
        async with started(FakeRunner(2, 2), metrics=metrics) as engine:
            session = engine.session()
            session.opened_at -= 1000.0
            await transcribe(session, 1)
            await transcribe(session, 2)
            session.close()
        value = metrics.registry.get_sample_value
        assert value("earshot_queue_seconds_count") == 1
        assert (value("earshot_queue_seconds_sum") or 0) < 500

    run(main)


def test_idle_engine_takes_no_steps() -> None:
    async def main() -> None:
        before = set(threading.enumerate())
        async with started(FakeRunner(1, 1)) as engine:
            session = engine.session()
            await transcribe(session, 1, 3)
            session.close()
            await all_free(engine)
            steps = engine.stats()["steps"]
            (thread,) = set(threading.enumerate()) - before
            assert thread.ident is not None
            clock = time.pthread_getcpuclockid(thread.ident)
            began_s = time.clock_gettime(clock)
            await asyncio.sleep(0.2)
            assert engine.stats()["steps"] == steps
            assert time.clock_gettime(clock) - began_s < 0.1, "the thread spins"

    run(main)
