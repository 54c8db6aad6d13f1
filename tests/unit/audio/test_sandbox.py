from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from service.audio import sandbox
from service.audio.decode import AudioDecoder, AudioLimits
from service.errors import EngineBusy, InvalidAudio, RequestTimeout, Unavailable

Make = Callable[..., Any]
DEADLINE_S = 30.0

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/task").is_dir(), reason="children are looked at through /proc"
)


def children() -> set[int]:
    """Return the process ids of all children of this process, zombies included."""
    return {child.pid for child in psutil.Process().children()}


def read_proc(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_text()


def state_of(pid: int) -> str:
    return read_proc(pid, "stat").rpartition(")")[2].split()[0]


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


async def until(condition: Callable[[], bool]) -> None:
    """Poll with a deadline."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def open_decoder(limits: AudioLimits, max_children: int = 1) -> AsyncIterator[AudioDecoder]:
    decoder = AudioDecoder(limits, max_children)
    try:
        yield decoder
    finally:
        await decoder.close()


def leaves_nothing_behind(scenario: Callable[[], Awaitable[None]]) -> None:
    """Run a scenario and see that no process and no file descriptor is left of it."""
    before = children(), open_descriptors()

    async def run() -> None:
        await scenario()
        await until(lambda: children() <= before[0])

    asyncio.run(run())
    assert children() <= before[0]
    assert open_descriptors() <= before[1]


@pytest.fixture(scope="module")
def short(encode: Make, voice: Make) -> bytes:
    data: bytes = encode(voice(1.0, 16_000), 16_000, "flac", "flac")
    return data


@pytest.fixture(scope="module")
def long(encode: Make, voice: Make) -> bytes:
    """Two minutes: far more PCM than the pipe holds, so that the child waits for its reader."""
    data: bytes = encode(voice(120.0, 16_000), 16_000, "flac", "flac")
    return data


def the_decoding_child(before: set[int], idle: set[int]) -> int:
    (pid,) = children() - before - idle
    return pid


def test_nothing_is_left_after_files_good_and_bad(limits: AudioLimits, short: bytes) -> None:
    async def scenario() -> None:
        async with open_decoder(limits, max_children=2) as decoder:
            await decoder.start()
            files = [short, b"fLaC" + bytes(100), short, b"text", short]
            results = await asyncio.gather(*map(decoder.decode, files), return_exceptions=True)
            assert [type(result).__name__ for result in results] == [
                "ndarray", "InvalidAudio", "ndarray", "InvalidAudio", "ndarray",
            ]  # fmt: skip

    leaves_nothing_behind(scenario)


def test_no_more_children_run_than_allowed(limits: AudioLimits, short: bytes) -> None:
    most = 0

    async def scenario() -> None:
        before = children()

        def count(_: float) -> None:
            nonlocal most
            most = max(most, len(children() - before))

        async with open_decoder(limits, max_children=2) as decoder:
            await asyncio.gather(*(decoder.decode(short, count) for _ in range(6)))

    leaves_nothing_behind(scenario)
    assert 1 <= most <= 4  # two that decode and two that wait ready


def test_a_child_is_executed_without_torch_or_the_service(limits: AudioLimits) -> None:
    async def scenario() -> None:
        async with open_decoder(limits) as decoder:
            before = children()
            await decoder.start()
            (pid,) = children() - before
            mapped = read_proc(pid, "maps")
            assert "libav" in mapped
            assert "torch" not in mapped
            assert os.getpgid(pid) == pid
            names = {
                line.partition("=")[0] for line in read_proc(pid, "environ").split("\0") if line
            }
            threads = {"OMP_NUM_THREADS", "OMP_THREAD_LIMIT", "OPENBLAS_NUM_THREADS"}
            assert names <= {"LD_LIBRARY_PATH", *threads}

    leaves_nothing_behind(scenario)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV])
def test_a_child_that_crashes_is_invalid_audio(
    limits: AudioLimits, long: bytes, how: signal.Signals
) -> None:
    async def scenario() -> None:
        before = children()
        async with open_decoder(limits) as decoder:

            def crash(_: float) -> None:
                for pid in children() - before:
                    os.kill(pid, how)

            with pytest.raises(InvalidAudio, match=f"signal {how.value}"):
                await decoder.decode(long, crash)

    leaves_nothing_behind(scenario)


def test_a_child_that_hangs_is_killed_when_its_time_is_over(
    limits: AudioLimits, long: bytes
) -> None:
    async def scenario() -> None:
        before = children()
        async with open_decoder(dataclasses.replace(limits, decode_timeout_s=2.0)) as decoder:

            def hang(_: float) -> None:
                for pid in children() - before:
                    os.kill(pid, signal.SIGSTOP)

            with pytest.raises(RequestTimeout, match=r"2\.0 s"):
                await decoder.decode(long, hang)

    leaves_nothing_behind(scenario)


def test_cancelling_kills_the_child(limits: AudioLimits, long: bytes) -> None:
    async def scenario() -> None:
        before = children()
        started = asyncio.Event()
        async with open_decoder(limits) as decoder:
            stopped: set[int] = set()

            def hang(_: float) -> None:
                stopped.update(children() - before)
                for pid in stopped:
                    os.kill(pid, signal.SIGSTOP)
                started.set()

            task = asyncio.create_task(decoder.decode(long, hang))
            await started.wait()
            await until(lambda: all(state_of(pid) == "T" for pid in stopped))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert len(stopped & children()) < len(stopped)

    leaves_nothing_behind(scenario)


def test_cancelling_in_the_queue_leaves_the_turn_to_others(
    limits: AudioLimits, long: bytes, short: bytes
) -> None:
    async def scenario() -> None:
        async with open_decoder(limits) as decoder:
            tasks = [asyncio.create_task(decoder.decode(data)) for data in (long, short, short)]
            await asyncio.sleep(0)
            tasks[1].cancel()
            assert len(await tasks[0]) == 120 * 16_000
            assert len(await tasks[2]) == 16_000
            assert tasks[1].cancelled()

    leaves_nothing_behind(scenario)


def test_leaving_while_a_child_starts_leaves_no_more_that_wait_than_allowed(
    limits: AudioLimits, short: bytes
) -> None:
    """The place of the one who leaves has been filled again by then."""

    async def scenario() -> None:
        async with open_decoder(limits, max_children=2) as decoder:
            pool = decoder._children
            held = [asyncio.create_task(asyncio.Event().wait()) for _ in range(2)]
            starting: list[Any] = [asyncio.create_task(wait_for_child(task)) for task in held]
            pool._idle.extend(starting)
            first, second = (asyncio.create_task(decoder.decode(short)) for _ in range(2))
            await until(lambda: not pool._idle)
            held[1].cancel()
            await second
            await until(lambda: len(pool._idle) == pool._max_idle)
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            assert len(pool._idle) == pool._max_idle
            assert starting[0] not in pool._idle
            await until(lambda: not pool._reaping)

    async def wait_for_child(held: asyncio.Task[Any]) -> sandbox.DecodingChild:
        await asyncio.gather(held, return_exceptions=True)
        return await sandbox.DecodingChild.spawn()

    leaves_nothing_behind(scenario)


def test_a_refusal_while_audio_arrives_kills_the_child(limits: AudioLimits, long: bytes) -> None:
    def refuse(seconds: float) -> None:
        raise EngineBusy(f"no room for {seconds} s")

    async def scenario() -> None:
        async with open_decoder(limits) as decoder:
            with pytest.raises(EngineBusy):
                await decoder.decode(long, refuse)

    leaves_nothing_behind(scenario)


def test_closing_ends_what_is_decoding(limits: AudioLimits, long: bytes) -> None:
    async def scenario() -> None:
        started = asyncio.Event()
        decoder = AudioDecoder(limits)
        task = asyncio.create_task(decoder.decode(long, lambda _: started.set()))
        await started.wait()
        await decoder.close()
        with pytest.raises(Unavailable, match="shutting down"):
            await task

    leaves_nothing_behind(scenario)


def test_a_child_that_dies_while_it_waits_is_replaced(limits: AudioLimits, short: bytes) -> None:
    async def scenario() -> None:
        async with open_decoder(limits) as decoder:
            await decoder.start()
            for starting in decoder._children._idle:
                child = await starting
                os.kill(child.pid, signal.SIGKILL)
                # Until it is known here: the thread that waits for it knows it earlier.
                await until(lambda child=child: not child.is_alive)  # type: ignore[misc]
            assert len(await decoder.decode(short)) == 16_000

    leaves_nothing_behind(scenario)


def test_a_child_that_cannot_start_is_unavailable(
    limits: AudioLimits, short: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sandbox, "_PROGRAM", tmp_path / "missing.py")

    async def scenario() -> None:
        async with open_decoder(limits) as decoder:
            with pytest.raises(Unavailable):
                await decoder.start()
            with pytest.raises(Unavailable):
                await decoder.decode(short)

    leaves_nothing_behind(scenario)
