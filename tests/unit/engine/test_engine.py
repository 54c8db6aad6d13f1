"""The engine over a fake runner: serving a burst, clients that leave, rows that fail."""

from __future__ import annotations

import asyncio
import random
import threading
from contextlib import suppress

import pytest

from service.engine.engine import Engine, EngineState, Session
from service.engine.types import Finish, SessionClosed, TokenStep
from service.errors import (
    DecodingFailed,
)
from tests.unit.engine.fakes import FakeRunner, params, window
from tests.unit.engine.running import all_free, run, started, transcribe


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


def test_next_window_of_a_long_file_lets_a_short_one_pass() -> None:
    async def main() -> None:
        runner = FakeRunner(1, 1)
        async with started(runner) as engine:
            long = [engine.session() for _ in range(4)]
            for session in long:
                for name in range(1, 9):
                    await transcribe(session, name, 2)
            runner.gate = threading.Event()
            ended: list[int] = []

            async def one(session: Session, name: int) -> None:
                ended.append((await transcribe(session, name, 3))[0] - 1000)

            tasks = [asyncio.create_task(one(session, n)) for n, session in enumerate(long, 10)]
            await asyncio.to_thread(runner.at_gate.wait)
            tasks.append(asyncio.create_task(one(engine.session(), 20)))
            await asyncio.sleep(0)
            runner.gate.set()
            await asyncio.gather(*tasks)
            assert ended == [10, 20, 11, 12, 13]

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
