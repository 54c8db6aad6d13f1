"""Faults in the real engine: thread, scheduler, runner, model. The culprit alone fails.

Four windows are decoded together, one of them is struck, and the other three have to come out with
the bits that each has alone. Afterwards all four decode once more in the places that were struck.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from service.decoding.params import SequenceParams
from service.engine.engine import Engine, EngineState
from service.engine.types import TokenStep, WindowInput
from service.errors import DecodingFailed, EngineDead
from tests.unit.engine.fakes import EOT, SPECIAL, window
from tests.unit.engine.poison import (
    CULPRIT,
    STRUCK_AFTER,
    Target,
    fill,
    only_the_culprits,
    raising,
    rule_for_later_tokens,
    rule_for_the_first_token,
)
from tests.unit.engine.running import all_free, run

FRAMES = (60, 120, CULPRIT, 250)
"""Four windows, each of a length of its own when rounded up: 64, 128, 192 and 256 frames."""
N_TOKENS = 20
HOW = SequenceParams(
    (SPECIAL.sot, 103), 0, N_TOKENS, suppress_blank=False, suppress_tokens=(EOT,),
    max_initial_timestamp_index=50,
)  # fmt: skip

Bits = list[tuple[int, float]]
Inject = Callable[[Target], None]

CPU_MEMORY = "[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"
FAULTS: dict[str, Inject] = {
    "NaN in a step": lambda target: target.in_steps(fill(float("nan"))),
    "infinity in a step": lambda target: target.in_steps(fill(float("inf"))),
    "nothing left in a step": lambda target: target.in_steps(fill(float("-inf"))),
    "NaN after the prompt": lambda target: target.in_prompts(fill(float("nan"))),
    "prompt that raises": lambda target: target.in_prompts(raising(ValueError("no"))),
    "step that raises": lambda target: target.in_steps(raising(RuntimeError("no"))),
    "rule that raises": rule_for_later_tokens,
    "first rule that raises": rule_for_the_first_token,
    "encoder that raises": lambda t: t.in_encoder(only_the_culprits(ArithmeticError("no"))),
    "window too large alone": lambda target: target.in_encoder(
        only_the_culprits(torch.OutOfMemoryError("CUDA out of memory"))
    ),
    "window too large for a CPU": lambda target: target.in_encoder(
        only_the_culprits(RuntimeError(CPU_MEMORY))
    ),
}


async def decode(engine: Engine, audio: WindowInput, how: SequenceParams = HOW) -> Bits:
    session = engine.session()
    try:
        async with session.window(audio) as lease:
            return await collect(lease.decode(how))
    finally:
        session.close()


async def collect(stream: AsyncIterator[TokenStep]) -> Bits:
    bits: Bits = []
    async for step in stream:
        if step.error is not None:
            raise step.error
        bits.append((step.token_id, step.logprob))
    return bits


async def decode_all(
    target: Target, engine: Engine, windows: list[WindowInput], how: SequenceParams = HOW
) -> list[Bits | BaseException]:
    """Decode all windows together: the engine takes them when all are there."""
    target.submitted.clear()
    tasks = [asyncio.create_task(decode(engine, audio, how)) for audio in windows]
    await asyncio.sleep(0)
    target.submitted.set()
    return await asyncio.gather(*tasks, return_exceptions=True)


def audio() -> list[WindowInput]:
    return [window(n_frames, seed=n_frames) for n_frames in FRAMES]


@pytest.fixture(scope="module")
def alone() -> list[Bits]:
    """The bits of each window in an engine that has nothing else to do."""
    bits: list[Bits] = []

    async def main() -> None:
        for one in audio():
            async with Target().engine() as engine:
                bits.append(await decode(engine, one))

    run(main)
    assert len({str(each) for each in bits}) == len(FRAMES)
    assert all(len(each) == N_TOKENS for each in bits)
    return bits


def check(results: list[Bits | BaseException], alone: list[Bits], *, culprit: bool) -> None:
    for n_frames, result, expected in zip(FRAMES, results, alone, strict=True):
        if culprit and n_frames == CULPRIT:
            assert isinstance(result, DecodingFailed), result
        else:
            assert result == expected, f"the window of {n_frames} frames"


@pytest.mark.parametrize("inject", FAULTS.values(), ids=FAULTS.keys())
def test_only_the_culprit_fails_and_no_bit_of_its_neighbours_changes(
    inject: Inject, alone: list[Bits]
) -> None:
    async def main() -> None:
        target = Target()
        inject(target)
        async with target.engine() as engine:
            check(await decode_all(target, engine, audio()), alone, culprit=True)
            assert target.mean_batch() > 2, "they were not decoded together"
            assert engine.state is EngineState.READY
            await all_free(engine)
            target.broken = False
            check(await decode_all(target, engine, audio()), alone, culprit=False)
            await all_free(engine)

    run(main)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda one: replace(one, samples=np.full_like(one.samples, np.nan)),
        lambda one: replace(one, samples=one.samples[:-7]),
        lambda one: replace(one, log_maximum=float("nan")),
    ],
    ids=["samples that are no numbers", "too few samples", "no maximum"],
)
def test_audio_that_is_poison_fails_alone(
    spoil: Callable[[WindowInput], WindowInput], alone: list[Bits]
) -> None:
    async def main() -> None:
        target = Target()
        windows = [spoil(one) if one.content_frames == CULPRIT else one for one in audio()]
        async with target.engine() as engine:
            check(await decode_all(target, engine, windows), alone, culprit=True)
            check(await decode_all(target, engine, audio()), alone, culprit=False)
            await all_free(engine)

    run(main)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no room"), RuntimeError(CPU_MEMORY)])
def test_encoder_that_runs_out_of_memory_goes_on_with_half_the_batch(error: RuntimeError) -> None:
    sizes: list[int] = []

    def room_for_two(mel: Tensor) -> None:
        sizes.append(len(mel))
        if len(mel) > 2:
            raise error

    async def main() -> None:
        windows = [window(180, seed=seed) for seed in range(4)]
        expected = []
        for one in windows:
            async with Target().engine() as engine:
                expected.append(await decode(engine, one))
        target = Target()
        target.in_encoder(room_for_two)
        async with target.engine() as engine:
            for _ in range(2):
                assert await decode_all(target, engine, windows) == expected
            assert target.runner.encode_batch == target.core.scheduler.encode_batch == 2
        assert [size for size in sizes if size > 2] == [4], "it is halved once"

    run(main)


def test_step_that_runs_out_of_memory_goes_on_in_halves(alone: list[Bits]) -> None:
    async def main() -> None:
        target = Target()
        decode_step = target.model.decode

        def room_for_one(tokens: Tensor, *args: Any, **how: Any) -> Tensor:
            target.together = max(target.together, len(tokens))
            if len(tokens) > 1:
                raise torch.OutOfMemoryError("no room")
            return decode_step(tokens, *args, **how)

        target.model.decode = room_for_one  # type: ignore[method-assign]
        async with target.engine() as engine:
            check(await decode_all(target, engine, audio()), alone, culprit=False)
            assert target.together == len(FRAMES)

    run(main)


def lost_device(target: Target) -> None:
    target.in_steps(raising(torch.AcceleratorError("CUDA error: an illegal memory access")))


def scheduler_that_raises(target: Target) -> None:
    update = target.core.scheduler.update
    steps = iter(range(1000))

    def faulty(outcomes: Any) -> Any:
        if target.broken and next(steps) == STRUCK_AFTER:
            raise KeyError("a defect in the scheduler")
        return update(outcomes)

    target.core.scheduler.update = faulty  # type: ignore[method-assign]


def thread_that_exits(target: Target) -> None:
    target.in_steps(raising(SystemExit(3)))


@pytest.mark.parametrize("inject", [lost_device, scheduler_that_raises, thread_that_exits])
def test_dead_engine_thread_ends_every_stream_with_an_error(
    inject: Inject, alone: list[Bits]
) -> None:
    """Two of the windows run, the others wait for a row, and one client has not begun."""

    async def main() -> None:
        target = Target(rows=2)
        inject(target)
        streams: list[Bits] = []

        async def listen(engine: Engine, one: WindowInput) -> None:
            heard: Bits = []
            streams.append(heard)
            async with engine.session().window(one) as lease:
                async for step in lease.decode(HOW):
                    heard.append((step.token_id, step.logprob))

        async with target.engine() as engine:
            late = engine.session()
            target.submitted.clear()
            culprit_first = sorted(audio(), key=lambda one: one.content_frames != CULPRIT)
            tasks = [asyncio.create_task(listen(engine, one)) for one in culprit_first]
            await asyncio.sleep(0)
            target.submitted.set()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(result) for result in results] == [EngineDead] * len(FRAMES)
            assert engine.state is EngineState.DEAD
            assert len(target.deaths) == 1
            with pytest.raises(EngineDead):
                late.window(audio()[0]).decode(HOW)
            with pytest.raises(EngineDead):
                engine.session()
        expected = sorted(alone, key=lambda bits: bits is not alone[FRAMES.index(CULPRIT)])
        for heard, bits in zip(streams, expected, strict=True):
            assert heard == bits[: len(heard)], "what came before the end is right"
        assert len(streams[0]) >= STRUCK_AFTER - 1

    run(main)
