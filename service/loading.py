"""From a checkpoint to the engine's core over it.

Imported by who holds the model only: torch takes seconds, and memory. Knows nothing about HTTP.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import torch

from service.at_work import ModelAtWork, ModelFlow
from service.audio.filterbank import HOP_LENGTH, SAMPLE_RATE
from service.capacity import MOST, choose_slots, free_host_bytes
from service.checkpoints.checkpoint import Checkpoint, build_model
from service.checkpoints.load import load_checkpoint
from service.checkpoints.opened import open_model
from service.decoding.params import SpecialTokens
from service.engine.core import EngineCore
from service.engine.runner import ModelRunner, RunnerConfig
from service.engine.scheduler import Scheduler, SchedulerConfig
from service.errors import DeviceError
from service.inspection.flow import build_flow
from service.inspection.flow_report import heading, notes, report
from service.inspection.flow_svg import draw_svg
from service.inspection.flow_text import draw
from service.memory import give_back
from service.model.kv_cache import cache_bytes
from service.model.numerics import PLAIN, Numerics, choose_numerics
from service.model.packed import pack
from service.settings import Settings
from service.transcription.params import ModelFacts

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
AUDIO_CONTEXT_STEP = 64
"""Mel frames to whose multiples shorter windows are rounded up: whole tiles of every kernel."""
_WORTH_THREADS = 256
"""Width of a model from which on it pays to share its work out. Whisper's smallest has 384; in a
narrower one threads wait for each other longer than they compute, and hold a core meanwhile."""
_MOST_HYPOTHESES = 16
"""Of one window, so that one request does not take all rows."""
_CGROUP_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


def available_cpus(cpu_max: Path = _CGROUP_CPU_MAX) -> int:
    """Return the CPUs that this process may use: its affinity, and in a container its quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cpus = allowed or 1
    try:
        quota, period = cpu_max.read_text(encoding="ascii").split()
        return max(1, min(cpus, int(quota) // int(period)))
    except (OSError, ValueError):  # no such file, or "max": no quota
        return cpus


def choose_threads(asked_for: int, d_model: int) -> int:
    """Return how many threads compute on a CPU: as asked for, or what pays.

    Args:
        asked_for: 0 to choose.
        d_model: width of the model.
    """
    if asked_for:
        return asked_for
    return available_cpus() if d_model >= _WORTH_THREADS else 1


def choose_device(name: str) -> torch.device:
    """Return the device; `auto` is CUDA if there is one.

    Raises:
        DeviceError: if there is no such device here.
    """
    n_cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if n_cuda else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= n_cuda:
        raise DeviceError(f"device {name}: torch {torch.__version__} sees {n_cuda} CUDA devices")
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype; `auto` is float32 on a CPU and bfloat16 on CUDA."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return DTYPES[name]


def free_bytes(device: torch.device) -> int | None:
    """Return the memory that is free on a device, or None if nobody says."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return free_host_bytes()


def keep_sums_whole() -> None:
    """Forbid CUDA's matrix libraries what lets a row's sum depend on the batch, or lose digits.

    Without workspace there is no split-k, which is what varies with the batch on recent devices.
    Called before anything runs on the device: the libraries read their environment once. The probe
    at start says whether it was enough.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    os.environ.setdefault("CUBLASLT_WORKSPACE_SIZE", "1")
    matmul = torch.backends.cuda.matmul
    matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    matmul.allow_bf16_reduced_precision_reduction = False
    matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cudnn.benchmark = False
    if torch.version.cuda is not None:
        torch.backends.cuda.preferred_blas_library("cublaslt")


def load(settings: Settings, source: str) -> tuple[EngineCore, ModelAtWork]:
    """Load the model on this thread -> a core over it that is cold yet, and what to know of it.

    Raises:
        CheckpointError: if the model cannot be read.
        DeviceError: if it cannot be put where it should be.
    """
    checkpoint, runner = _load(settings, source)
    model = runner.model
    scheduler = SchedulerConfig(
        windows=runner.config.windows,
        rows=runner.config.rows,
        eot=runner.special.eot,
        n_text_ctx=checkpoint.config.n_text_ctx,
    )
    at_work = ModelAtWork(
        facts_of(checkpoint, runner.config.rows),
        checkpoint.tokenizer,
        model_flow(checkpoint),
        n_mels=checkpoint.config.n_mels,
        kv_cache_bytes=runner.cache.nbytes,
        device=str(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        numerics=model.numerics.name,
        n_threads=torch.get_num_threads(),
        torch_version=str(torch.__version__),  # its own class would bring torch
    )
    return EngineCore(Scheduler(scheduler), runner), at_work


def _load(settings: Settings, source: str) -> tuple[Checkpoint, ModelRunner]:
    device = choose_device(settings.device)
    dtype = choose_dtype(settings.dtype, device)
    if device.type == "cuda":
        keep_sums_whole()
    torch.set_num_threads(settings.threads or available_cpus())
    checkpoint = load_checkpoint(source, tokenizer=settings.tokenizer)
    if device.type == "cpu":
        torch.set_num_threads(choose_threads(settings.threads, checkpoint.config.d_model))
    checkpoint = with_audio_context(checkpoint, settings.audio_context_s)
    try:
        numerics = choose_numerics(settings.numerics, device, dtype, checkpoint.config)
    except ValueError as error:
        raise DeviceError(str(error)) from None
    runner = _runner(checkpoint, numerics, device, dtype, settings)
    if settings.numerics == "auto" and numerics.is_packed and not runner.settle():
        logger.warning("%s numerics change with the load on this CPU: plain instead", numerics.name)
        del runner  # before the next takes as much memory
        runner = _runner(checkpoint, PLAIN, device, dtype, settings)
    return checkpoint, runner


def _runner(
    checkpoint: Checkpoint,
    numerics: Numerics,
    device: torch.device,
    dtype: torch.dtype,
    settings: Settings,
) -> ModelRunner:
    what = f"{checkpoint.name} in {settings.dtype}"
    with _fits(device, what):
        model = build_model(checkpoint, device=device, dtype=dtype)
        pack(model, numerics)
    give_back()  # what was there before it was packed
    nbytes = functools.partial(
        cache_bytes, checkpoint.config, dtype=model.self_dtype, cross_dtype=model.cross_dtype
    )
    slots = choose_slots(
        settings.window_slots,
        settings.decoder_rows,
        most=MOST[device.type],
        free=free_bytes(device),
        nbytes=nbytes,
    )
    logger.info(slots.reason)
    config = RunnerConfig(
        windows=slots.windows,
        rows=slots.rows,
        encode_batch=settings.encode_batch,
        alignment_heads=checkpoint.generation.alignment_heads,
        fixed_shapes=device.type == "cuda",
    )
    special = SpecialTokens.of(checkpoint.tokenizer, checkpoint.config.n_vocab)
    with _fits(device, f"{what} with {slots.windows} window slots and {slots.rows} decoder rows"):
        return ModelRunner(model, special, config)


def with_audio_context(checkpoint: Checkpoint, shortest_s: float) -> Checkpoint:
    """Return a checkpoint whose windows are as short as their audio, but not shorter than this.

    One that was trained on windows of any length has them as short as they come, as before.
    """
    config = checkpoint.config
    shortest_frames = round(shortest_s * SAMPLE_RATE / HOP_LENGTH)
    if shortest_frames >= config.max_frames:
        return checkpoint
    if not config.has_whole_windows:
        logger.warning(
            "audio_context_s=%g changes nothing: %s takes windows of any length",
            shortest_s, checkpoint.name,
        )  # fmt: skip
        return checkpoint
    shorter = dataclasses.replace(
        config,
        window_rounding_frames=AUDIO_CONTEXT_STEP,
        shortest_window_frames=shortest_frames,
    )
    return dataclasses.replace(checkpoint, config=shorter)


@contextlib.contextmanager
def _fits(device: torch.device, what: str) -> Iterator[None]:
    """Turn a lack of memory into an error that says what does not fit."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceError(f"{device} cannot hold {what}: {error}") from error


def model_flow(checkpoint: Checkpoint) -> ModelFlow:
    """Return the data flow, which tells of the file and not where it lies."""
    file = dataclasses.replace(open_model(checkpoint.source), name=checkpoint.name)
    flow, title, below = build_flow(file), heading(file), notes(file)
    text = "\n".join([title, "", *draw(flow), "", *below, ""])
    return ModelFlow(report(file, flow, file=file.name), draw_svg(flow, title, below), text)


def facts_of(checkpoint: Checkpoint, rows: int) -> ModelFacts:
    """Return what transcriptions need to know of a model that is served with so many rows."""
    generation = checkpoint.generation
    return ModelFacts(
        name=checkpoint.name,
        n_vocab=checkpoint.config.n_vocab,
        n_text_ctx=checkpoint.config.n_text_ctx,
        max_frames=checkpoint.config.max_frames,
        suppress_tokens=generation.suppress_tokens,
        begin_suppress_tokens=generation.begin_suppress_tokens,
        max_initial_timestamp_index=generation.max_initial_timestamp_index,
        max_hypotheses=min(rows, _MOST_HYPOTHESES),
    )
