"""The engine in a process of its own: the same tokens, and all ways in which either side ends."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil
import pytest

from service.engine import engine as engine_module
from service.engine.engine import Engine, EngineConfig, EngineState
from service.engine.process import ProcessHost
from service.engine.types import TokenStep
from service.errors import CheckpointError, DecodingFailed, EngineDead, EngineDraining
from service.settings import Settings
from tests.unit.engine.apart import DETAILS, LOST, STUCK
from tests.unit.engine.fakes import EOT, params, window
from tests.unit.engine.running import all_free, run, transcribe, until

PROGRAM = (sys.executable, "-P", "-m", "tests.unit.engine.apart")


@asynccontextmanager
async def apart() -> AsyncIterator[tuple[Engine, list[str]]]:
    """An engine that is warm, and what it was said to have failed of."""
    deaths: list[str] = []
    host = await ProcessHost.start_program(PROGRAM)
    assert await host.load((Settings(), "fit")) == DETAILS
    engine = Engine(host, config=EngineConfig(8), on_dead=deaths.append)
    engine.start()
    await engine.until_ready()
    try:
        yield engine, deaths
    finally:
        await engine.stop(0)
        assert not children()


def children() -> list[int]:
    """Return the engine's processes."""
    found = psutil.Process().children()
    return [each.pid for each in found if "tests.unit.engine.apart" in each.cmdline()]


async def first_steps(engine: Engine, name: int) -> AsyncIterator[TokenStep]:
    """Return the steps of a window without an end, of which some have come."""
    lease = engine.session().window(window(name))
    stream = lease.decode(params(max_tokens=400))
    for _ in range(3):
        await anext(stream)
    return stream


def test_tokens_come_as_from_a_thread_and_everything_is_given_back() -> None:
    async def main() -> None:
        async with apart() as (engine, deaths):
            sessions = [engine.session() for _ in range(6)]
            names = [*range(1, 6), 3000]  # the last is larger than what a socket holds
            found = await asyncio.gather(
                *(transcribe(session, name) for session, name in zip(sessions, names, strict=True))
            )
            assert found == [[name + 1000] * 4 + [EOT] for name in names]
            for session in sessions:
                session.close()
            engine.tidy()
            await all_free(engine)
            await until(lambda: engine.stats()["step_running_s"] is None)
            assert engine.stats()["steps"] != 0
        assert not deaths

    run(main)


def test_what_cannot_be_done_is_an_error_of_its_own_request() -> None:
    async def main() -> None:
        async with apart() as (engine, _):
            session = engine.session()
            async with session.window(window(1)) as lease:
                (step,) = [step async for step in lease.decode(params(prompt=(101,) * 500))]
            assert isinstance(step.error, DecodingFailed)
            assert (await transcribe(session, 2))[-1] == EOT
            session.close()

    run(main)


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        ("unfit", CheckpointError, "tensor missing"),
        ("broken", RuntimeError, "KeyError: 'nobody thought of this'"),
        ("killed", EngineDead, "code -9"),
    ],
)
def test_what_it_fails_of_while_it_loads_is_raised(
    source: str, error: type[Exception], words: str
) -> None:
    async def main() -> None:
        host = await ProcessHost.start_program(PROGRAM)
        with pytest.raises(error, match=words):
            await host.load((Settings(), source))
        host.kill()
        host.kill()
        assert not children()

    run(main)


def test_a_program_that_is_not_there_is_an_engine_that_is_dead() -> None:
    async def main() -> None:
        with pytest.raises(EngineDead, match="could not be started"):
            await ProcessHost.start_program(("/nonexistent/python",))

    run(main)


def test_a_process_that_is_killed_ends_every_stream_with_an_error() -> None:
    async def main() -> None:
        async with apart() as (engine, deaths):
            streams = [await first_steps(engine, name) for name in (1, 2)]
            (pid,) = children()
            os.kill(pid, signal.SIGKILL)
            for stream in streams:
                with pytest.raises(EngineDead):
                    [step async for step in stream]
            assert engine.state is EngineState.DEAD
            assert deaths == ["its process ended with code -9"]

    run(main)


def test_a_device_that_is_lost_there_is_told_by_its_name() -> None:
    async def main() -> None:
        async with apart() as (engine, deaths):
            session = engine.session()
            with pytest.raises(EngineDead, match=r"the engine has failed \(RunnerDead\)"):
                await transcribe(session, LOST)
            assert len(deaths) == 1

    run(main)


def test_a_turn_that_does_not_end_does_not_hold_up_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine_module, "LAST_TURN_S", 0.2)

    async def main() -> None:
        async with apart() as (engine, deaths):
            lease = engine.session().window(window(STUCK))
            stream = lease.decode(params(max_tokens=400))
            await anext(stream)
            await engine.stop(0)
            with pytest.raises(EngineDraining):
                [step async for step in stream]
            assert not children()
            with pytest.raises(EngineDraining):
                lease.decode(params())
        assert not deaths

    run(main)


def test_a_signal_for_all_processes_of_a_service_is_left_to_the_service() -> None:
    async def main() -> None:
        async with apart() as (engine, deaths):
            (pid,) = children()
            assert os.getpgid(pid) == pid  # a terminal does not reach it
            for number in (signal.SIGTERM, signal.SIGINT):
                os.kill(pid, number)
            assert (await transcribe(engine.session(), 2))[-1] == EOT
        assert not deaths

    run(main)
