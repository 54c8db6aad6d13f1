"""The runner over a small random model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from service.audio.mel import LogMelSpectrogram, Padding
from service.decoding.params import SequenceParams
from service.engine.core import EngineCore
from service.engine.runner import ModelRunner, RunnerConfig
from service.engine.scheduler import Scheduler, SchedulerConfig
from service.engine.types import Group, Move, MoveKind, RunnerDead, Sampled, Start, WindowInput
from service.model import WhisperModel
from tests.unit.engine.fakes import EOT, SPECIAL, window
from tests.unit.engine.models import lively_model, small_config

FREE = SequenceParams(
    (SPECIAL.sot, 103), 0, 40, timestamps=False, suppress_blank=False, suppress_tokens=(EOT,)
)


def runner_of(model: WhisperModel | None = None, **config: Any) -> ModelRunner:
    sizes = {"windows": 6, "rows": 4, "encode_batch": 2, "probe": False} | config
    return ModelRunner(model or lively_model(small_config()), SPECIAL, RunnerConfig(**sizes))


def decode(runner: ModelRunner, audio: WindowInput, n_steps: int = 10) -> list[Sampled]:
    runner.encode([(0, audio)])
    steps = runner.prefill([Start(0, 0, FREE)])
    steps += [runner.decode([Group(0, 0, 1)])[0] for _ in range(n_steps - 1)]
    return [step for step in steps if isinstance(step, Sampled)]


@pytest.mark.parametrize("rounding", [0, 64])
def test_steps_are_the_teacher_forced_models_greedy_choice(rounding: int) -> None:
    model = lively_model(small_config(rounding=rounding))
    audio = window(150)
    steps = decode(runner_of(model), audio, 40)
    tokens = [*FREE.prompt, *(step.token_id for step in steps)]
    n_frames = model.config.window_frames(150)
    mel = LogMelSpectrogram(80).windows([(audio.samples, 150, 2.0)], n_frames, Padding.MEL)
    with torch.inference_mode():
        logits = model(mel, torch.tensor([tokens]))[0]
    logits = logits.clone()
    no_speech = logits[0].softmax(-1)[SPECIAL.no_speech or 0].item()
    logits[:, EOT] = float("-inf")
    logprobs = logits[1:-1].log_softmax(-1)
    assert len(set(tokens)) > 10
    for step, row in zip(steps, logprobs, strict=True):
        assert row[step.token_id].item() == pytest.approx(row.max().item(), abs=1e-3)
        assert step.logprob == pytest.approx(row[step.token_id].item(), abs=1e-3)
    assert steps[0].no_speech_prob == pytest.approx(no_speech, abs=1e-5)
    assert all(step.no_speech_prob is None for step in steps[1:])


def test_vocabulary_without_a_no_speech_token_has_no_such_probability() -> None:
    special = replace(SPECIAL, no_speech=None)
    runner = ModelRunner(lively_model(small_config()), special, RunnerConfig(2, 2, 1, probe=False))
    assert decode(runner, window(50), 1)[0].no_speech_prob is None


def test_windows_of_several_lengths_are_encoded_by_length() -> None:
    model = lively_model(small_config(rounding=64))
    shapes: list[tuple[int, ...]] = []
    model.encoder.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape)))
    runner = runner_of(model)
    lengths = [60, 200, 64, 190, 10]
    runner.encode([(slot, window(n, seed=slot)) for slot, n in enumerate(lengths)])
    assert shapes == [(2, 80, 64), (1, 80, 64), (2, 80, 256)] or shapes == [
        (2, 80, 64), (1, 80, 64), (1, 80, 256), (1, 80, 192),
    ]  # fmt: skip


def test_windows_are_encoded_in_powers_of_two() -> None:
    model = lively_model(small_config())
    sizes: list[int] = []
    hook_on_batches(model, sizes.append)
    runner_of(model, windows=8, encode_batch=6).encode([(slot, window(60)) for slot in range(7)])
    assert sizes == [4, 2, 1]


def test_nan_in_one_window_reaches_neither_its_neighbour_nor_its_successor() -> None:
    runner = runner_of(lively_model(small_config(rounding=64)))
    good, longer = window(60, seed=1), window(200, seed=2)
    expected = decode(runner, good)
    broken = WindowInput(np.full_like(longer.samples, np.nan), 200, 2.0)
    runner.encode([(0, good), (1, broken)])
    first = runner.prefill([Start(0, 0, FREE), Start(1, 1, FREE)])
    assert [step.failed for step in first] == [False, True]
    assert first[0] == expected[0]
    assert runner.decode([Group(0, 0, 1)])[0] == expected[1]
    runner.encode([(1, good)])
    runner.move([Move(MoveKind.WINDOW, 1, 0)])
    again = runner.prefill([Start(0, 0, FREE)]) + [
        runner.decode([Group(0, 0, 1)])[0] for _ in range(9)
    ]
    assert again == expected


def test_nan_while_decoding_fails_that_row_and_the_next_owner_is_well() -> None:
    runner = runner_of()
    expected = decode(runner, window(60, seed=1))
    runner.encode([(0, window(60, seed=1)), (1, window(60, seed=1))])
    runner.prefill([Start(0, 0, FREE), Start(1, 1, FREE)])
    runner.cache.self_[0, 0, 1, 0, 0, 0] = float("nan")
    steps = runner.decode([Group(0, 0, 2)])
    assert [step.failed for step in steps] == [False, True]
    assert steps[0] == expected[1]
    runner.encode([(1, window(60, seed=1))])
    assert runner.prefill([Start(1, 1, FREE)])[0] == expected[0]
    assert runner.decode([Group(1, 1, 1)])[0] == expected[1]


def test_moved_row_goes_on_where_it_was() -> None:
    runner = runner_of()
    expected = decode(runner, window(60, seed=1))
    runner.encode([(slot, window(60, seed=slot)) for slot in (0, 1, 2)])
    first = runner.prefill([Start(row, row, FREE) for row in (0, 1, 2)])
    steps = [first[1], *(runner.decode([Group(0, 0, 3)])[1] for _ in range(3))]
    runner.move([Move(MoveKind.ROW, 1, 0), Move(MoveKind.SWAP, 1, 0)])
    steps += [runner.decode([Group(0, 0, 1)])[0] for _ in range(6)]
    assert steps == expected


def hook_on_batches(model: WhisperModel, fault: Callable[[int], None]) -> None:
    """Call `fault` with the size of each encoder batch before it is encoded."""

    def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        fault(args[0].shape[0])

    model.encoder.register_forward_pre_hook(hook)


def test_encoder_batch_that_does_not_fit_is_halved() -> None:
    model = lively_model(small_config())
    sizes: list[int] = []

    def fault(n_windows: int) -> None:
        if n_windows > 1:
            raise torch.OutOfMemoryError("no room")
        sizes.append(n_windows)

    hook_on_batches(model, fault)
    runner = runner_of(model, encode_batch=4)
    runner.encode([(slot, window(60, seed=slot)) for slot in range(4)])
    assert sizes == [1, 1, 1, 1]
    assert runner.encode_batch == 1


def test_single_window_that_does_not_fit_is_an_error() -> None:
    model = lively_model(small_config())

    def fault(_: int) -> None:
        raise torch.OutOfMemoryError("no room")

    hook_on_batches(model, fault)
    with pytest.raises(torch.OutOfMemoryError):
        runner_of(model).encode([(0, window(60))])


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: unspecified launch failure"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling cublasSgemm"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    ],
)
def test_lost_device_is_told_apart_from_other_errors(error: RuntimeError) -> None:
    model = lively_model(small_config())

    def fault(_: int) -> None:
        raise error

    hook_on_batches(model, fault)
    with pytest.raises(RunnerDead, match=str(error)):
        runner_of(model).encode([(0, window(60))])


def test_scheduler_follows_an_encoder_batch_that_was_lowered() -> None:
    model = lively_model(small_config())

    def fault(n_windows: int) -> None:
        if n_windows > 2:
            raise torch.OutOfMemoryError("no room")

    hook_on_batches(model, fault)
    core = EngineCore(
        Scheduler(SchedulerConfig(8, 8, EOT, 448, 4)),
        runner_of(model, windows=8, rows=8, encode_batch=4),
    )
    for number in range(8):
        core.scheduler.open(number, window(60, seed=number))
        core.scheduler.submit(number, number, FREE)
    assert [len(core.turn().encoded) for _ in range(3)] == [4, 2, 2]


def test_bad_window_fails_alone_in_its_batch() -> None:
    core = EngineCore(
        Scheduler(SchedulerConfig(4, 4, EOT, 448, 4)), runner_of(windows=4, encode_batch=4)
    )
    bad = WindowInput(np.zeros(7, dtype=np.float32), 60, 2.0)
    for number, audio in enumerate([window(60), bad, window(60, seed=1)]):
        core.scheduler.open(number, audio)
        core.scheduler.submit(number, number, FREE)
    steps = dict(core.step())
    assert [steps[number].error is None for number in range(3)] == [True, False, True]
    assert len(core.step()) == 2


def test_bad_parameters_fail_alone() -> None:
    core = EngineCore(
        Scheduler(SchedulerConfig(4, 4, EOT, 448, 4)), runner_of(windows=4, encode_batch=4)
    )
    for number, how in enumerate([FREE, replace(FREE, suppress_tokens=(9999,)), FREE]):
        core.scheduler.open(number, window(60, seed=number))
        core.scheduler.submit(number, number, how)
    steps = dict(core.step())
    assert [steps[number].error is None for number in range(3)] == [True, False, True]


class NoWaiting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Fails on operations that would wait for a device."""

    WAITING = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique")

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        name = func.overloadpacket.__name__
        assert name not in self.WAITING, f"{name} waits for the device"
        return func(*args, **(kwargs or {}))


def test_step_does_not_wait_for_the_device_but_in_its_one_copy() -> None:
    runner = runner_of()
    runner.sampler.rules.looks = False  # as on a GPU
    runner.encode([(0, window(60)), (1, window(60, seed=1))])
    sampled = replace(FREE, temperature=0.5, timestamps=True)
    with NoWaiting():  # type: ignore[no-untyped-call]
        runner.prefill([Start(0, 0, FREE), Start(1, 1, sampled)])
        runner.decode([Group(0, 0, 2)])
        runner.move([Move(MoveKind.SWAP, 1, 0), Move(MoveKind.ROW, 1, 0)])
        runner.decode([Group(0, 0, 1)])


def test_warm_up_chooses_an_encoder_batch_and_serves() -> None:
    runner = runner_of(encode_batch=0, probe=True)
    runner.warm_up()
    assert runner.encode_batch in {1, 2}
    assert not decode(runner, window(60))[0].failed


def test_warm_up_leaves_nothing_behind() -> None:
    fresh, warm = runner_of(), runner_of(probe=True)
    warm.warm_up()
    assert decode(warm, window(60)) == decode(fresh, window(60))


def test_encoder_batch_is_one_where_rows_would_not_divide() -> None:
    """105 positions: two windows are 210 rows, which two threads would split in another place."""
    model = lively_model(small_config(n_audio_ctx=105))
    sizes: list[int] = []
    hook_on_batches(model, sizes.append)
    runner_of(model).encode([(0, window(60)), (1, window(60))])
    assert sizes == [1, 1]


def test_encoder_batch_that_changes_bits_is_not_used() -> None:
    runner = runner_of(encode_batch=4, probe=True)

    def by_batch(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        return output * (1 + 1e-3) if len(output) > 1 else output

    runner.model.encoder.register_forward_hook(by_batch)
    runner.warm_up()
    assert runner.encode_batch == 1
