"""Texts that are aligned in one pass: each has the bits that it has alone, and fails alone."""

from __future__ import annotations

import asyncio
import random
import threading
from typing import Any

import pytest
import torch
from torch import Tensor

from service.decoding.params import AlignParams, DetectParams
from service.decoding.words import Alignment
from service.engine.core import EngineCore
from service.engine.runner import ModelRunner, RunnerConfig
from service.engine.scheduler import Scheduler, SchedulerConfig
from service.engine.types import ALIGN_BATCH, Answer, SessionClosed, Step
from service.errors import DecodingFailed
from service.model.numerics import choose_numerics
from service.model.packed import pack
from tests.unit.engine.fakes import EOT, SPECIAL, FakeRunner, window
from tests.unit.engine.models import lively_model, small_config
from tests.unit.engine.running import all_free, run, started

PROMPT = (SPECIAL.sot, SPECIAL.no_timestamps)
LENGTHS = ((3, 60), (40, 200), (120, 700), (29, 700), (200, 900), (1, 20), (62, 130), (60, 64))
"""Tokens of a text, and mel frames of its window."""
CULPRIT = 2


def texts() -> list[AlignParams]:
    rng = random.Random(3)
    return [
        AlignParams(PROMPT, tuple(rng.choices(range(EOT), k=n_tokens)), n_frames)
        for n_tokens, n_frames in LENGTHS
    ]


def cold_runner(dtype: torch.dtype = torch.float32, numerics: str = "plain") -> ModelRunner:
    model = lively_model(small_config(n_audio_ctx=500, rounding=64), dtype)
    pack(model, choose_numerics(numerics, torch.device("cpu"), dtype))
    heads = ((0, 1), (1, 0), (1, 1))
    n = len(LENGTHS)
    return ModelRunner(model, SPECIAL, RunnerConfig(n, n, 1, alignment_heads=heads))


def runner_of(dtype: torch.dtype = torch.float32, numerics: str = "plain") -> ModelRunner:
    runner = cold_runner(dtype, numerics)
    runner.warm_up()
    return runner


def leased(runner: ModelRunner, numbers: list[int]) -> EngineCore:
    """Lease windows and let them be encoded."""
    core = EngineCore(Scheduler(SchedulerConfig(8, 8, EOT, 448, 1)), runner)
    for number in numbers:
        core.scheduler.open(number, window(LENGTHS[number][1], seed=number))
        core.scheduler.submit(number, number, DetectParams())
    while core.scheduler.has_work:
        core.step()
    return core


def aligned(core: EngineCore, numbers: list[int]) -> dict[int, Step]:
    """Align the texts of leased windows, all of which wait at the same time."""
    for number in numbers:
        core.scheduler.submit(100 + number, number, texts()[number])
    found: dict[int, Step] = {}
    while core.scheduler.has_work:
        found |= {sequence_id - 100: step for sequence_id, step in core.step()}
    return found


def alone(runner: ModelRunner) -> dict[int, Step]:
    found: dict[int, Step] = {}
    for number in range(len(LENGTHS)):
        found |= aligned(leased(runner, [number]), [number])
    return found


def watch_passes(runner: ModelRunner, culprit: Exception | None = None) -> list[int]:
    """Return a list that the size of every pass is added to; that of the culprit raises."""
    read, sizes = runner.model.read, []

    def watched(texts_read: list[list[int]], *args: Any) -> list[Tensor]:
        sizes.append(len(texts_read))
        if culprit is not None and any(len(text) == 120 + 3 for text in texts_read):
            raise culprit
        return read(texts_read, *args)

    runner.model.read = watched  # type: ignore[method-assign, assignment]
    return sizes


@pytest.mark.parametrize(
    ("dtype", "numerics"),
    [
        (torch.float32, "plain"),
        (torch.bfloat16, "plain"),
        (torch.float32, "packed"),
        (torch.float32, "mixed"),
        (torch.float32, "mixed-decoder"),
        (torch.float32, "int8"),
    ],
    ids=["float32", "bfloat16", "packed", "mixed", "mixed-decoder", "int8"],
)
def test_text_has_the_same_bits_alone_and_beside_others(
    threads: int, dtype: torch.dtype, numerics: str
) -> None:
    try:
        runner = runner_of(dtype, numerics)
    except ValueError as error:
        pytest.skip(str(error))
    expected = alone(runner)
    assert len({str(step) for step in expected.values()}) == len(LENGTHS)
    sizes = watch_passes(runner)
    numbers = list(range(len(LENGTHS)))
    random.Random(threads).shuffle(numbers)
    assert aligned(leased(runner, numbers), numbers) == expected
    assert max(sizes) == runner._aligner.together


def test_texts_share_a_pass() -> None:
    runner = runner_of()
    runner._aligner.together = ALIGN_BATCH
    core = leased(runner, list(range(len(LENGTHS))))
    sizes = watch_passes(runner)
    aligned(core, list(range(len(LENGTHS))))
    assert sizes == [ALIGN_BATCH] * (len(LENGTHS) // ALIGN_BATCH)


def test_text_on_a_window_that_is_not_a_number_fails_alone() -> None:
    runner = runner_of()
    expected = alone(runner)
    core = leased(runner, [0, 1, CULPRIT, 3])
    slot = next(n for n, w in enumerate(core.scheduler.slots) if w is not None and w.id == CULPRIT)
    runner.cache.cross[:, :, slot] = float("nan")
    found = aligned(core, [0, 1, CULPRIT, 3])
    assert isinstance(found.pop(CULPRIT).error, DecodingFailed)
    assert found == {number: expected[number] for number in (0, 1, 3)}
    assert alone(runner) == expected


def test_text_that_raises_fails_alone() -> None:
    runner = runner_of()
    runner._aligner.together = ALIGN_BATCH
    expected = alone(runner)
    core = leased(runner, [0, 1, CULPRIT, 3])
    sizes = watch_passes(runner, torch.OutOfMemoryError("no room"))
    found = aligned(core, [0, 1, CULPRIT, 3])
    assert sizes == [4, 2, 2, 1, 1]
    assert isinstance(found.pop(CULPRIT).error, DecodingFailed)
    assert found == {number: expected[number] for number in (0, 1, 3)}
    assert not core.scheduler.running


def test_texts_are_aligned_one_by_one_where_their_company_would_change_them() -> None:
    runner = cold_runner()

    def by_rows(_: object, __: object, out: Tensor) -> Tensor:
        return out * (1 + 1e-3) if out.shape[0] > 300 else out

    first = runner.model.decoder.blocks[0]
    first.get_submodule("mlp").register_forward_hook(by_rows)
    runner.warm_up()
    assert runner._aligner.together == 1
    assert aligned(leased(runner, [0, 1, 3]), [0, 1, 3]) == {
        number: step for number, step in alone(runner).items() if number in {0, 1, 3}
    }


def test_lease_that_is_closed_while_it_is_aligned_or_waits_for_it_leaves_the_others_alone() -> None:
    async def main() -> None:
        gate = threading.Event()
        runner = FakeRunner(4, 8, encode_batch=1, gate=gate, gated="align")
        async with started(runner) as engine:
            session = engine.session()
            leases = [session.window(window(name)) for name in (11, 12, 13, 14)]
            for lease in leases:
                await lease.detect()
            work = [asyncio.create_task(lease.align(texts()[0])) for lease in leases]
            await asyncio.sleep(0)  # let them submit
            await asyncio.to_thread(runner.at_gate.wait, 30)
            leases[0].close()
            leases[1].close()
            gate.set()
            found = await asyncio.gather(*work, return_exceptions=True)
            assert [type(one) for one in found] == [SessionClosed] * 2 + [Alignment] * 2
            assert found[2:] == [Alignment((0.0, 13.0), (0.5,)), Alignment((0.0, 14.0), (0.5,))]
            async with session.window(window(15)) as fresh:
                assert await fresh.align(texts()[0]) == Alignment((0.0, 15.0), (0.5,))
            session.close()
            await all_free(engine)

    run(main)


def test_answers_are_what_one_would_align_alone_in_the_model() -> None:
    """The whole of it against the plain model: probabilities of a text that is read at once."""
    runner = runner_of()
    found = aligned(leased(runner, [0, 1, 3]), [0, 1, 3])
    answer = found[1]
    assert isinstance(answer, Answer)
    assert isinstance(answer.result, Alignment)
    text = texts()[1]
    audio = window(LENGTHS[1][1], seed=1)
    n_frames = runner.model.config.window_frames(audio.content_frames)
    inputs = [(audio.samples, audio.content_frames, audio.log_maximum)]
    mel = runner._encoder._mel.windows(inputs, n_frames, runner.config.padding)
    with torch.inference_mode():
        logits = runner.model(mel, torch.tensor([[*text.prompt, *text.tokens]]))[0, 1:-1, :EOT]
    probabilities = logits.softmax(-1)[torch.arange(len(text.tokens)), list(text.tokens)]
    assert answer.result.probabilities == pytest.approx(probabilities.tolist(), abs=1e-4)
