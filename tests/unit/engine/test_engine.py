"""The engine's thread and its loop over a fake runner: leaving, refusing, draining, dying."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from service.engine.core import EngineCore
from service.engine.engine import Engine, EngineConfig, EngineState, Session
from service.engine.types import Finish, SessionClosed, TokenStep
from service.errors import (
    DecodingFailed,
    EngineBusy,
    EngineDead,
    EngineDraining,
    EngineStarting,
)
from service.metrics import Metrics
from tests.unit.engine.fakes import FakeRunner, params, scheduler, window

DEADLINE_S = 60.0


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(main(), DEADLINE_S))


@asynccontextmanager
async def started(
    runner: FakeRunner, *, max_requests: int = 64, metrics: Metrics | None = None
) -> AsyncIterator[Engine]:
    core = EngineCore(scheduler(runner.windows, runner.rows, runner.encode_batch), runner)
    engine = Engine(core, config=EngineConfig(max_requests), metrics=metrics)
    engine.start()
    await engine.until_ready()
    try:
        yield engine
    finally:
        if runner.gate is not None:
            runner.gate.set()
        await engine.stop(0)


async def until(condition: Callable[[], object]) -> None:
    """Poll; the test's own deadline ends it."""
    while not condition():  # noqa: ASYNC110 - another thread makes it true
        await asyncio.sleep(0.001)


async def all_free(engine: Engine) -> None:
    await until(
        lambda: (
            engine.stats()["window_slots_used"] == 0
            and engine.stats()["decoder_rows_used"] == 0
            and engine.stats()["windows_waiting"] == 0
        )
    )


async def transcribe(session: Session, name: int, max_tokens: int = 5) -> list[int]:
    async with session.window(window(name)) as lease:
        return [step.token_id async for step in lease.decode(params(max_tokens=max_tokens))]


def test_every_request_of_a_burst_larger_than_the_slots_is_served() -> None:
    async def main() -> None:
        async with started(FakeRunner(3, 2, encode_batch=2)) as engine:
            sessions = [engine.session() for _ in range(20)]
            tokens = await asyncio.gather(
                *(transcribe(session, name) for name, session in enumerate(sessions, 1))
            )
            assert [t[:-1] for t in tokens] == [[name + 1000] * 4 for name in range(1, 21)]
            for session in sessions:
                session.close()
            await all_free(engine)

    run(main)


def test_window_is_encoded_once_however_often_it_is_decoded() -> None:
    async def main() -> None:
        runner = FakeRunner(2, 2)
        async with started(runner) as engine:
            session = engine.session()
            async with session.window(window(7)) as lease:
                for _ in range(3):
                    steps = [step async for step in lease.decode(params(max_tokens=3))]
                    assert steps[-1].finish is Finish.EOT
            session.close()
            assert [n for what, n in runner.log if what == "encode" and n] == [1]

    run(main)


def test_session_is_refused_before_the_engine_is_warm() -> None:
    async def main() -> None:
        runner = FakeRunner(1, 1, gate=threading.Event(), gated="warm_up")
        engine = Engine(EngineCore(scheduler(1, 1), runner), config=EngineConfig(1))
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


@pytest.mark.parametrize("stage", ["encode", "prefill", "decode"])
def test_leaving_in_a_stage_frees_the_slot_before_the_next_step(stage: str) -> None:
    """The engine is held inside the stage while the client leaves."""

    async def main() -> None:
        runner = FakeRunner(2, 2, gate=threading.Event(), gated=stage)
        async with started(runner) as engine:
            session = engine.session()
            lease = session.window(window(7))
            stream = lease.decode(params(max_tokens=50))
            await asyncio.to_thread(runner.at_gate.wait)
            session.close()
            assert runner.gate is not None
            runner.gate.set()
            await all_free(engine)
            steps = len([what for what, _ in runner.log if what == "decode"])
            assert steps <= 1
            with pytest.raises(SessionClosed):
                [step async for step in stream]

    run(main)


def test_leaving_while_queued_gives_the_place_to_the_next() -> None:
    async def main() -> None:
        runner = FakeRunner(1, 1, gate=threading.Event())
        async with started(runner) as engine:
            first, second, third = (engine.session() for _ in range(3))
            running = asyncio.create_task(transcribe(first, 1))
            await asyncio.to_thread(runner.at_gate.wait)
            second.window(window(2)).decode(params())
            last = asyncio.create_task(transcribe(third, 3))
            await asyncio.sleep(0)
            second.close()
            assert runner.gate is not None
            runner.gate.set()
            await running
            assert (await last)[0] == 1003
            assert 2 not in runner.slots
            first.close()
            third.close()
            await all_free(engine)

    run(main)


def test_leaving_before_the_first_token_is_read_frees_the_slot() -> None:
    async def main() -> None:
        async with started(FakeRunner(1, 1)) as engine:
            session = engine.session()
            session.window(window(1)).decode(params(max_tokens=40))
            session.close()
            await all_free(engine)
            assert await transcribe(engine.session(), 2, 2) == [1002, 100]

    run(main)


def test_leaving_after_the_last_token_frees_the_slot() -> None:
    async def main() -> None:
        async with started(FakeRunner(1, 1)) as engine:
            session = engine.session()
            lease = session.window(window(1))
            assert [step async for step in lease.decode(params(max_tokens=2))]
            assert engine.stats()["window_slots_used"] == 1
            session.close()
            await all_free(engine)

    run(main)


def test_leaving_at_random_points_frees_everything_and_disturbs_nobody() -> None:
    async def client(engine: Engine, name: int, rng: random.Random) -> None:
        session = engine.session()
        try:
            leaves_after = rng.choice([None, 0, 1, 2, 3, 7])
            async with session.window(window(name)) as lease:
                n_seen = 0
                stream = lease.decode(params(max_tokens=8))
                while leaves_after is None or n_seen < leaves_after:
                    step = await anext(stream, None)
                    if step is None:
                        assert n_seen == 8
                        return
                    n_seen += 1
                    assert step.token_id == (100 if n_seen == 8 else name + 1000)
        finally:
            session.close()

    async def main() -> None:
        rng = random.Random(0)
        async with started(FakeRunner(4, 3, encode_batch=2)) as engine:
            await asyncio.gather(*(client(engine, name, rng) for name in range(1, 60)))
            await all_free(engine)
            assert engine.stats()["requests"] == 0

    run(main)


def test_cancelled_reader_leaves_the_engine_free() -> None:
    async def main() -> None:
        runner = FakeRunner(1, 1, gate=threading.Event())
        async with started(runner) as engine:
            session = engine.session()
            reader = asyncio.create_task(transcribe(session, 1, 50))
            await asyncio.to_thread(runner.at_gate.wait)
            reader.cancel()
            with suppress(asyncio.CancelledError):
                await reader
            session.close()
            assert runner.gate is not None
            runner.gate.set()
            await all_free(engine)

    run(main)


def test_decoding_again_cancels_what_decodes() -> None:
    async def main() -> None:
        runner = FakeRunner(1, 1, gate=threading.Event())
        async with started(runner) as engine:
            session = engine.session()
            lease = session.window(window(1))
            first = lease.decode(params(max_tokens=50))
            await asyncio.to_thread(runner.at_gate.wait)
            second = lease.decode(params(max_tokens=3))
            assert runner.gate is not None
            runner.gate.set()
            assert len([step async for step in second]) == 3
            with pytest.raises(SessionClosed, match="again"):
                [step async for step in first]
            session.close()

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


def test_only_the_culprit_fails_and_its_neighbours_go_on() -> None:
    async def last_step(session: Session, name: int) -> TokenStep:
        async with session.window(window(name)) as lease:
            return [step async for step in lease.decode(params(max_tokens=9))][-1]

    async def main() -> None:
        runner = FakeRunner(4, 4, encode_batch=4, poison_decode={2}, nan={3})
        async with started(runner) as engine:
            steps = await asyncio.gather(
                *(last_step(engine.session(), name) for name in (1, 2, 3, 4))
            )
            assert [step.finish for step in steps] == [
                Finish.EOT, Finish.ERROR, Finish.ERROR, Finish.EOT,
            ]  # fmt: skip
            assert isinstance(steps[1].error, DecodingFailed)
            assert engine.state is EngineState.READY

    run(main)


def test_prompt_that_does_not_fit_fails_that_sequence() -> None:
    async def main() -> None:
        async with started(FakeRunner(1, 1)) as engine:
            async with engine.session().window(window(1)) as lease:
                [step] = [step async for step in lease.decode(params((), 5))]
                assert isinstance(step.error, DecodingFailed)
            assert await transcribe(engine.session(), 2, 2) == [1002, 100]

    run(main)


def test_dead_device_ends_every_stream_and_tells_the_process() -> None:
    async def main() -> None:
        deaths: list[BaseException] = []
        runner = FakeRunner(2, 2, gate=threading.Event())
        engine = Engine(
            EngineCore(scheduler(2, 2), runner),
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
            EngineCore(scheduler(1, 1), FakeRunner(1, 1, lost=True)), config=EngineConfig(1)
        )
        engine.start()
        with pytest.raises(EngineDead):
            await engine.until_ready()
        await engine.stop(0)

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
        engine = Engine(EngineCore(scheduler(1, 1), FakeRunner(1, 1)), config=EngineConfig(1))
        await engine.stop(0)
        async with started(FakeRunner(1, 1)) as other:
            await other.stop(0)

    run(main)


def test_one_callback_a_step_reaches_the_loop() -> None:
    async def main() -> None:
        runner = FakeRunner(8, 8, encode_batch=8)
        async with started(runner) as engine:
            loop = asyncio.get_running_loop()
            calls = 0
            original = loop.call_soon_threadsafe

            def counting(*args: Any, **kwargs: Any) -> asyncio.Handle:
                nonlocal calls
                calls += 1
                return original(*args, **kwargs)

            before = engine.stats()["steps"]
            loop.call_soon_threadsafe = counting  # type: ignore[assignment, method-assign]
            tokens = await asyncio.gather(
                *(transcribe(engine.session(), name, 20) for name in range(1, 9))
            )
            del loop.call_soon_threadsafe
            await until(lambda: engine.stats()["step_running_s"] is None)
            steps = int(str(engine.stats()["steps"])) - int(str(before))
            assert sum(len(t) for t in tokens) == 160
            assert calls == steps < 100

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


def test_idle_engine_takes_no_steps() -> None:
    async def main() -> None:
        async with started(FakeRunner(1, 1)) as engine:
            session = engine.session()
            await transcribe(session, 1, 3)
            session.close()
            await all_free(engine)
            steps = engine.stats()["steps"]
            began = time.process_time()
            await asyncio.sleep(0.2)
            assert engine.stats()["steps"] == steps
            assert time.process_time() - began < 0.15

    run(main)
