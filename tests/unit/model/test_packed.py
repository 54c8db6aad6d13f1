"""Packed weights, bfloat16 and 8-bit integers compute what float32 does, each row by itself."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from service.model import WhisperConfig, WhisperModel
from service.model.attention import CrossAttention, SelfAttention, attend
from service.model.blocks import blocks
from service.model.numerics import PACKED, PLAIN
from service.model.packed import PackedLinear, attend_by_head, attend_fused, pack
from service.model.probe import probe
from tests.unit.model.cpus import here, leave_out_what_is_compiled

CONFIG = WhisperConfig(
    n_mels=80, n_audio_ctx=320, d_model=64, n_audio_head=2, n_audio_layer=2, n_audio_ffn=128,
    n_vocab=331, n_text_ctx=96, n_text_head=2, n_text_layer=2, n_text_ffn=128,
    window_rounding_frames=64,
)  # fmt: skip
TOLERANCE = {"packed": 1e-5, "bfloat16": 0.02, "mixed": 0.03, "mixed-decoder": 0.03, "int8": 0.03}
"""Root mean square error of logits, as a share of theirs."""


def model(config: WhisperConfig = CONFIG) -> WhisperModel:
    generator = torch.Generator().manual_seed(0)
    made = WhisperModel(config).requires_grad_(False).eval()
    for parameter in made.parameters():
        parameter.normal_(0, 0.15 if parameter.dim() > 1 else 0.5, generator=generator)
    return made


def step(of: WhisperModel) -> Tensor:
    """Logits of one decode step over three windows of several lengths."""
    cache = of.new_cache(4, 4)
    for slot, n_frames in enumerate((128, 640, 64)):
        mel = torch.randn(1, 80, n_frames, generator=torch.Generator().manual_seed(slot))
        cache.write_cross(slot, of.decoder.cross_kv(of.encode(mel))[0])
    of.decode(torch.tensor([1, 2, 3]), [0, 0, 0], cache)
    return of.decode(torch.tensor([5, 6, 7]), [1, 1, 1], cache)


@pytest.fixture
def not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_out_what_is_compiled(monkeypatch)


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected).norm() / expected.norm())


@pytest.mark.parametrize("is_compiled", [True, False])
@pytest.mark.parametrize("separate_head", [False, True], ids=["tied head", "own head"])
@pytest.mark.parametrize("name", TOLERANCE)
def test_logits_are_those_of_float32_as_far_as_the_numerics_go(
    monkeypatch: pytest.MonkeyPatch, name: str, *, separate_head: bool, is_compiled: bool
) -> None:
    if not is_compiled:
        leave_out_what_is_compiled(monkeypatch)
    numerics = here(name)
    original = model(config := _with_head(separate_head))
    packed = model(config)
    with torch.inference_mode():
        pack(packed, numerics)
        expected, found = step(original), step(packed)
    assert found.dtype == torch.float32
    assert relative_error(found, expected) < TOLERANCE[name]
    assert packed.numerics is numerics
    assert not [child for child in packed.modules() if isinstance(child, nn.Linear)]


def _with_head(separate: bool) -> WhisperConfig:
    return replace(CONFIG, separate_head=separate)


def test_plain_numerics_change_nothing() -> None:
    original, same = model(), model()
    pack(same, PLAIN)
    with torch.inference_mode():
        assert torch.equal(step(original), step(same))


@pytest.mark.parametrize("is_compiled", [True, False])
@pytest.mark.parametrize("name", TOLERANCE)
def test_packed_model_is_batch_invariant(
    monkeypatch: pytest.MonkeyPatch, name: str, *, is_compiled: bool
) -> None:
    if not is_compiled:
        leave_out_what_is_compiled(monkeypatch)
    packed = model()
    pack(packed, here(name))
    with torch.inference_mode():
        cache = packed.new_cache(8, 16)
        report = probe(packed, cache, encode_batch=3)
    assert report.is_invariant, report.failures


@pytest.mark.parametrize("name", ["packed", "bfloat16"])
def test_packed_linear_is_a_linear(name: str) -> None:
    dtype = here(name).encoder
    original, x = nn.Linear(96, 80), torch.randn(3, 5, 96)
    with torch.inference_mode():
        found = PackedLinear(original.weight, original.bias, dtype)(x)
        assert found.shape == (3, 5, 80)
        assert found.dtype == dtype
        assert relative_error(found, original(x)) < 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_blocks_of_rows_are_not_seen(dtype: torch.dtype) -> None:
    here("packed" if dtype == torch.float32 else "bfloat16")
    product = PackedLinear(torch.randn(80, 96), torch.randn(80), dtype)
    x = torch.randn(256, 96)
    with torch.inference_mode():
        expected = product(x)
        for n_rows in (8, 16, 24, 40, 56, 72, 104, 200, 248):
            assert torch.equal(product(x[:n_rows]), expected[:n_rows])


def test_blocks_are_of_few_sizes_and_hold_all_rows() -> None:
    found = {n: blocks(n) for n in range(1, 12_001)}
    assert all(n <= sum(sizes) <= 1.5 * n for n, sizes in found.items())
    assert all(sum(sizes) <= n + 8 + n // 7 for n, sizes in found.items())
    assert len({size for sizes in found.values() for size in sizes}) == 15


def test_blocks_of_a_multiple_of_a_power_of_two_are_such_multiples() -> None:
    for multiple in (4, 8, 16, 32):
        for n_rows in range(multiple, 3000, multiple):
            assert not any(size % multiple for size in blocks(n_rows))


def test_number_of_rows_that_comes_often_stays_whole() -> None:
    assert [blocks(n, 1500) for n in (1500, 3000, 4500)] == [[1500], [3000], [4500]]
    assert blocks(1504, 1500) == blocks(1504) == [1024, 512]


@pytest.mark.parametrize("n_positions", [32, 250, 251, 700])
def test_attention_by_head_is_attention(n_positions: int) -> None:
    here("bfloat16")
    query, key, value = torch.randn(3, 2, 4, n_positions, 32)
    with torch.inference_mode():
        expected = scaled_dot_product_attention(query, key, value)
        found = attend_by_head(query.bfloat16(), key.bfloat16(), value.bfloat16())
        assert found.shape == expected.shape
        assert relative_error(found, expected) < 0.01
        assert relative_error(attend_by_head(query, key, value), expected) < 1e-5


@pytest.mark.parametrize("width", [1, 5])
@pytest.mark.parametrize("n_masked", [0, 7])
def test_fused_attention_is_attention_over_cached_keys(width: int, n_masked: int) -> None:
    query = torch.randn(3, 4, width, 32)
    key, value = torch.randn(2, 3, 4, 96, 32).bfloat16()
    bias = torch.zeros(3, 1, 1, 96)
    bias[1, ..., 96 - n_masked :] = float("-inf")
    with torch.inference_mode():
        for mask in (None, bias):
            expected = attend(query, key.float(), value.float(), mask)
            found = attend_fused(query, key, value, mask)
            assert found.shape == expected.shape
            assert relative_error(found, expected) < 0.01


@pytest.mark.usefixtures("not_compiled")
@pytest.mark.parametrize("with_tiles", [True, False])
def test_attention_in_bfloat16_is_the_one_for_this_kind_of_cpu(
    monkeypatch: pytest.MonkeyPatch, *, with_tiles: bool
) -> None:
    numerics = here("bfloat16")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: with_tiles)
    packed = model()
    pack(packed, numerics)
    encoder = cast("SelfAttention", packed.encoder.get_submodule("blocks.0.attn"))
    decoder = cast("CrossAttention", packed.decoder.get_submodule("blocks.0.cross_attn"))
    assert (encoder.attend is attend_by_head) == (not with_tiles)
    assert (decoder.attend is attend_fused) == with_tiles
    own = cast("SelfAttention", packed.decoder.get_submodule("blocks.0.attn"))
    assert (own.attend_cached is attend_fused) == with_tiles
    expected = torch.bfloat16 if with_tiles else torch.float32
    assert packed.self_dtype == packed.cross_dtype == expected
    with torch.inference_mode():
        assert relative_error(step(packed), step(model())) < TOLERANCE["bfloat16"]


@pytest.mark.usefixtures("not_compiled")
@pytest.mark.parametrize("rounding", [0, 64], ids=["one length", "many lengths"])
@pytest.mark.parametrize("fused_s", [0.5, 1.0])
def test_without_tiles_the_faster_attention_reads_windows_of_one_length(
    monkeypatch: pytest.MonkeyPatch, fused_s: float, rounding: int
) -> None:
    numerics = here("bfloat16")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr("service.model.timing.best_seconds", lambda *_, **__: [fused_s, 1.0])
    packed = model(replace(CONFIG, window_rounding_frames=rounding))
    pack(packed, numerics)
    decoder = cast("CrossAttention", packed.decoder.get_submodule("blocks.0.cross_attn"))
    assert (decoder.attend is attend_fused) == (fused_s < 1 and not rounding)
    assert packed.cross_dtype == (torch.float32 if rounding else torch.bfloat16)


def test_encoder_of_a_mixed_decoder_computes_what_packed_float32_does() -> None:
    """So do a window's keys and values, which are rounded once, if they are: to be kept."""
    numerics = here("mixed-decoder")
    mixed, packed = model(), model()
    pack(mixed, numerics)
    pack(packed, PACKED)
    mel = torch.randn(1, 80, 640)
    with torch.inference_mode():
        found, expected = mixed.encode(mel), packed.encode(mel)
        assert torch.equal(found, expected)
        kept = packed.decoder.cross_kv(expected).to(mixed.cross_dtype)
        assert torch.equal(mixed.decoder.cross_kv(found), kept)
