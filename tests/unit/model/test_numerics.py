"""The default numerics are the fastest that a CPU has, and those it has not are refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.random_model import TINY
from service.model.numerics import (
    INT8,
    MIXED,
    MIXED_DECODER,
    PACKED,
    PLAIN,
    Numerics,
    choose_numerics,
    multiplies_bfloat16_faster,
)
from tests.unit.model.cpus import CPU, here


def test_auto_is_plain_where_nothing_is_to_be_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_numerics("auto", torch.device("cuda"), torch.bfloat16) is PLAIN
    assert choose_numerics("auto", CPU, torch.bfloat16) is PLAIN
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert choose_numerics("auto", CPU, torch.float32) is PLAIN


@pytest.mark.parametrize(
    ("lacking", "is_compiled", "expected"),
    [
        (None, True, MIXED),
        (None, False, MIXED),
        ("_is_avx512_bf16_supported", True, INT8),
        ("_is_avx512_bf16_supported", False, PACKED),
        ("_is_vnni_supported", True, MIXED_DECODER),
        ("_is_vnni_supported", False, PACKED),
    ],
)
def test_auto_is_the_fastest_that_the_cpu_can(
    monkeypatch: pytest.MonkeyPatch, lacking: str | None, expected: Numerics, *, is_compiled: bool
) -> None:
    here("packed")
    monkeypatch.setattr("service.model.numerics.library", lambda: is_compiled or None)
    for instruction in ("_is_avx512_bf16_supported", "_is_vnni_supported"):
        monkeypatch.setattr(torch.cpu, instruction, lambda has=instruction != lacking: has)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert choose_numerics("auto", CPU, torch.float32) is expected


def test_a_model_that_nothing_is_compiled_for_needs_the_instructions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here("packed")
    monkeypatch.setattr("service.model.numerics.library", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)
    monkeypatch.setattr("service.model.numerics.multiplies_bfloat16_faster", lambda: False)
    for config, expected in ((TINY, INT8), (replace(TINY, n_text_ffn=1500), PACKED)):
        assert choose_numerics("auto", CPU, torch.float32, config) is expected


def test_8_bit_integers_need_the_instructions_wherever_they_are_not_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here("packed")
    monkeypatch.setattr("service.model.numerics.library", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    assert choose_numerics("int8", CPU, torch.float32, TINY) is INT8
    for odd in (replace(TINY, n_audio_ffn=1500), replace(TINY, n_text_ffn=1500)):
        assert choose_numerics("auto", CPU, torch.float32, odd) is PACKED
        with pytest.raises(ValueError, match="avx512_vnni"):
            choose_numerics("int8", CPU, torch.float32, odd)


@pytest.mark.parametrize(
    ("float32_s", "bfloat16_s", "expected"),
    [(2.0, 1.0, MIXED), (1.0, 1.0, INT8), (1.0, 2.0, INT8)],
)
def test_auto_encodes_in_int8_where_a_cpu_without_tiles_multiplies_bfloat16_no_faster(
    monkeypatch: pytest.MonkeyPatch, float32_s: float, bfloat16_s: float, expected: Numerics
) -> None:
    here("packed")
    for instruction in ("_is_avx512_bf16_supported", "_is_vnni_supported"):
        monkeypatch.setattr(torch.cpu, instruction, lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(
        "service.model.timing.best_seconds", lambda *_, **__: [bfloat16_s, float32_s]
    )
    multiplies_bfloat16_faster.cache_clear()
    try:
        assert choose_numerics("auto", CPU, torch.float32) is expected
    finally:
        multiplies_bfloat16_faster.cache_clear()


@pytest.mark.parametrize(
    ("name", "missing"), [("bfloat16", "avx512_bf16"), ("mixed", "avx512_vnni")]
)
def test_numerics_that_this_cpu_lacks_say_what_is_missing(
    name: str, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here("packed")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: name == "mixed")
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    monkeypatch.setattr("service.model.numerics.library", lambda: None)
    with pytest.raises(ValueError, match=missing):
        choose_numerics(name, CPU, torch.float32)


def test_numerics_for_cpus_are_refused_for_another_dtype_or_device() -> None:
    with pytest.raises(ValueError, match="not bfloat16"):
        choose_numerics("mixed", CPU, torch.bfloat16)
    with pytest.raises(ValueError, match="cuda"):
        choose_numerics("packed", torch.device("cuda"), torch.float32)
