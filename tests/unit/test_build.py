"""What the settings come to: names, limits, devices, threads."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from service import loading
from service.build import api_config, build_services, created_s, model_name, model_source
from service.checkpoints import load_checkpoint
from service.checkpoints.hf import save_hf_folder
from service.engine.engine import EngineState
from service.errors import DeviceError
from service.in_process import load_serving
from service.loading import (
    available_cpus,
    choose_device,
    choose_dtype,
    choose_threads,
    keep_sums_whole,
    with_audio_context,
)
from service.metrics import Metrics
from service.model import WhisperModel
from service.model.numerics import PLAIN
from service.model.packed import PackedLinear
from service.settings import Settings
from service.text.tokenizer import WhisperTokenizer
from service.transcription.params import TranscriptionParams, Vad
from tests.unit.engine.models import small_config
from tests.unit.model.cpus import leave_out_what_is_compiled


def test_the_builtin_model_is_a_folder_like_any_other() -> None:
    settings = Settings(model="builtin")
    assert Path(model_source(settings)).parts[-2:] == ("service", "builtin")
    assert model_name(settings) == "builtin"


def test_a_path_is_called_by_its_last_part_and_a_hub_id_by_itself(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    assert model_name(Settings(model=f"{folder}/")) == "mine"
    assert model_name(Settings(model="openai/whisper-tiny")) == "openai/whisper-tiny"


def test_a_model_is_as_old_as_its_files(tmp_path: Path) -> None:
    os.utime(tmp_path, (1_000_000, 1_000_000))
    assert created_s(Settings(model=str(tmp_path))) == 1_000_000
    assert created_s(Settings(model="openai/whisper-tiny")) >= int(time.time()) - 1


def test_limits_reach_the_interface() -> None:
    config = api_config(Settings(max_upload_bytes=1234, body_timeout_s=5.0, keepalive_s=2.0))
    assert (config.max_upload_bytes, config.body_timeout_s, config.keepalive_s) == (1234, 5.0, 2.0)


def test_services_exist_before_the_model_is_loaded() -> None:
    services = build_services(Settings(), on_dead=lambda error: None)
    assert services.state is EngineState.STARTING
    assert services.serving is None


def test_auto_is_the_cpu_in_float32_where_there_is_no_cuda(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    device = choose_device("auto")
    assert device.type == "cpu"
    assert choose_dtype("auto", device) is torch.float32


def test_auto_is_cuda_in_bfloat16_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    device = choose_device("auto")
    assert device.type == "cuda"
    assert choose_dtype("auto", device) is torch.bfloat16
    with pytest.raises(DeviceError, match="cuda:1"):
        choose_device("cuda:1")


async def _load(**settings: Any) -> None:
    await load_serving(Settings(**settings), "service/builtin", Metrics())


def test_numerics_that_the_device_has_not_are_an_error_that_says_why() -> None:
    with pytest.raises(DeviceError, match=r"numerics mixed: .* not bfloat16"):
        asyncio.run(_load(device="cpu", dtype="bfloat16", numerics="mixed"))


@pytest.fixture
def full_windows(tmp_path: Path, make_tokenizer: Callable[..., WhisperTokenizer]) -> str:
    """A folder with a small model that was trained on windows of 30 s, so its file says."""
    tokenizer = make_tokenizer()
    config = replace(small_config(n_audio_ctx=1500), n_vocab=tokenizer.n_vocab)
    save_hf_folder(tmp_path, WhisperModel(config).state_dict(), config, tokenizer=tokenizer)
    return str(tmp_path)


@pytest.mark.parametrize(("seconds", "frames"), [(30.0, 3000), (5.0, 512), (1.0, 192)])
def test_an_audio_context_shortens_the_windows_of_a_model_that_had_them_full(
    full_windows: str, monkeypatch: pytest.MonkeyPatch, seconds: float, frames: int
) -> None:
    encoded: list[int] = []
    encode = WhisperModel.encode

    def watched(model: WhisperModel, mel: torch.Tensor) -> torch.Tensor:
        encoded.append(mel.shape[-1])
        return encode(model, mel)

    monkeypatch.setattr(WhisperModel, "encode", watched)

    async def main() -> None:
        settings = Settings(audio_context_s=seconds, window_slots=1)
        serving = await load_serving(settings, full_windows, Metrics())
        params = TranscriptionParams(language="en", vad=Vad.OFF)
        samples = np.random.default_rng(0).standard_normal(30_000).astype(np.float32)
        session = serving.engine.session()
        transcription = serving.transcriber.open(samples, params, session, request_id="one")
        await transcription.result()
        transcription.close()
        await serving.engine.stop(0.0)

    asyncio.run(main())
    assert encoded[-1] == frames


def test_a_model_is_loaded_in_a_thread_that_ends(
    full_windows: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever computes with torch keeps helpers for as long as it lives (docs/adr/0017)."""
    loaders: set[threading.Thread] = set()

    def watch(name: str) -> None:
        original = getattr(loading, name)

        def watched(*args: object) -> object:
            loaders.add(threading.current_thread())
            return original(*args)

        monkeypatch.setattr(loading, name, watched)

    for name in ("_load", "model_flow"):
        watch(name)

    async def main() -> None:
        serving = await load_serving(Settings(window_slots=1), full_windows, Metrics())
        (loader,) = loaders
        assert loader is not threading.main_thread()
        loader.join(10)
        assert not loader.is_alive()
        await serving.engine.stop(0.0)

    asyncio.run(main())


def test_an_audio_context_changes_nothing_where_windows_are_short_already(
    caplog: pytest.LogCaptureFixture,
) -> None:
    builtin = load_checkpoint(model_source(Settings()))
    assert with_audio_context(builtin, 5.0) is builtin
    assert "changes nothing" in caplog.text
    assert with_audio_context(builtin, 30.0) is builtin


def test_a_dtype_by_name_is_that_dtype() -> None:
    assert choose_dtype("float16", torch.device("cpu")) is torch.float16


def test_a_quota_of_cpus_counts_and_no_quota_does_not(tmp_path: Path) -> None:
    cpus = len(os.sched_getaffinity(0))
    quota = tmp_path / "cpu.max"
    for content, expected in {
        "150000 100000": 1,
        "50000 100000": 1,
        "max 100000": cpus,
        "99900000 100000": cpus,
        "garbage": cpus,
    }.items():
        quota.write_text(content + "\n")
        assert available_cpus(quota) == expected, content
    assert available_cpus(tmp_path / "none") == cpus


def test_packed_weights_are_let_go_where_rows_change_with_their_neighbours(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on a CPU whose kernels sum in an order of their own for every call."""
    product = PackedLinear._product
    calls = itertools.count()

    def never_the_same(self: PackedLinear, rows: torch.Tensor) -> torch.Tensor:
        return product(self, rows) + 1e-5 * next(calls)

    monkeypatch.setattr(PackedLinear, "_product", never_the_same)
    leave_out_what_is_compiled(monkeypatch)  # which never does that
    _, runner = loading._load(Settings(device="cpu"), "service/builtin")
    assert runner.model.numerics is PLAIN
    assert runner.settle()
    if next(calls):  # packed weights were tried: this is an x86-64 CPU
        assert "plain instead" in caplog.text


def test_the_log_says_why_there_are_so_many_slots(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loading, "free_host_bytes", lambda: 100_000_000)
    settings = Settings(device="cpu", numerics="plain")  # everywhere the same bytes a window
    with caplog.at_level("INFO", loading.logger.name):
        _, runner = loading._load(settings, "service/builtin")
    assert (runner.config.windows, runner.config.rows) == (4, 8)
    assert (runner.cache.windows, runner.cache.rows) == (4, 8)
    assert runner.cache.nbytes < 50_000_000
    assert "as many as fit into 50% of the 100 MB that are free" in caplog.text


def test_cuda_is_told_to_sum_without_splitting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # so that it is put back in the end
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    monkeypatch.setenv("CUBLASLT_WORKSPACE_SIZE", "7")
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_bf16_reduced_precision_reduction
    try:
        keep_sums_whole()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
        assert os.environ["CUBLASLT_WORKSPACE_SIZE"] == "7"  # the operator's own choice stands
        assert not matmul.allow_bf16_reduced_precision_reduction
    finally:
        matmul.allow_bf16_reduced_precision_reduction = before


def test_a_small_model_computes_with_one_thread_unless_more_are_asked_for() -> None:
    assert choose_threads(0, 160) == 1
    assert choose_threads(0, 384) == available_cpus()
    assert choose_threads(3, 160) == 3
