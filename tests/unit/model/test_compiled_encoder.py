"""An encoder block that is compiled is the block of torch, but for eight bits."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from ctypes import CDLL
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from service.model import WhisperConfig, WhisperModel
from service.model.compiled_attention import attend_in_integers
from service.model.compiled_encoder import CompiledEncoderBlock, fits
from service.model.encoder import EncoderBlock
from service.model.int8 import int8_linear
from service.model.numerics import INT8
from service.model.packed import pack
from tests.unit.model.cpus import has_vnni, here, leave_out_what_is_compiled


def config_of(n_head: int = 2, n_ffn: int = 576) -> WhisperConfig:
    return WhisperConfig(
        n_mels=80, n_audio_ctx=64, d_model=128, n_audio_head=n_head, n_audio_layer=2,
        n_audio_ffn=n_ffn, n_vocab=331, n_text_ctx=32, n_text_head=2, n_text_layer=1,
        n_text_ffn=256, window_rounding_frames=64,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def inference(library: CDLL) -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture
def block() -> EncoderBlock:
    """A block of torch whose normalisations do something."""
    made = EncoderBlock(config_of()).eval().requires_grad_(False)
    for norm in (made.attn_ln, made.mlp_ln):
        norm.weight.uniform_(0.5, 2.0)
        norm.bias.uniform_(-1.0, 1.0)
    return made


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def by_operations(library: CDLL, block: EncoderBlock) -> EncoderBlock:
    """The same with torch's operations around products and attention in integers."""
    other = copy.deepcopy(block)
    other.attn.attend = partial(attend_in_integers, library)
    for name in ("attn.qkv", "attn.out", "mlp.0", "mlp.2"):
        linear = other.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        other.set_submodule(name, int8_linear(linear.weight, linear.bias))
    return other


@pytest.mark.parametrize("n", [1, 3, 4, 63, 64, 65, 130, 500])
def test_it_is_what_the_operations_are(library: CDLL, block: EncoderBlock, n: int) -> None:
    """Not to the bit: they round GELU and normalisation elsewhere, and eight bits may tell."""
    x = torch.randn(1, n, 128)
    found = CompiledEncoderBlock(library, block)(x)
    assert relative_error(found, by_operations(library, block)(x)) < 2e-3
    assert relative_error(found, block(x)) < 0.01


@pytest.mark.parametrize("n_threads", [1, 2, 3, 7])
def test_neither_threads_nor_neighbours_change_a_bit(
    library: CDLL, block: EncoderBlock, n_threads: int
) -> None:
    together, before = CompiledEncoderBlock(library, block), torch.get_num_threads()
    x = torch.randn(3, 150, 128) * torch.tensor([1.0, 1000.0, 1e-3])[:, None, None]
    expected = together(x)
    torch.set_num_threads(n_threads)
    try:
        for at in range(3):
            assert torch.equal(together(x[at : at + 1])[0], expected[at])
        assert torch.equal(together(x), expected)
    finally:
        torch.set_num_threads(before)


def test_what_it_is_given_stays_as_it_was(library: CDLL, block: EncoderBlock) -> None:
    x = torch.randn(128, 70).t()[None]  # which does not lie position after position
    before = x.clone()
    found = CompiledEncoderBlock(library, block)(x)
    assert torch.equal(x, before)
    assert torch.equal(found, CompiledEncoderBlock(library, block)(x.contiguous()))


@pytest.mark.parametrize("lost", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_in_its_window(
    library: CDLL, block: EncoderBlock, lost: float
) -> None:
    whole, x = CompiledEncoderBlock(library, block), torch.randn(2, 70, 128)
    expected = whole(x)
    x[1, 5, 7] = lost
    found = whole(x)
    assert torch.equal(found[0], expected[0])
    assert not found[1].isfinite().any()


@pytest.mark.parametrize(
    ("n_head", "n_ffn", "is_compiled"),
    [(2, 256, True), (4, 256, True), (8, 256, False), (2, 112, False), (2, 264, False)],
    ids=["heads of 64", "of 32", "of 16", "a narrow ffn", "one that is no whole vectors"],
)
def test_an_encoder_in_int8_is_compiled_where_it_fits(
    n_head: int, n_ffn: int, *, is_compiled: bool
) -> None:
    config = config_of(n_head, n_ffn)
    assert fits(config) == is_compiled
    model = WhisperModel(config).requires_grad_(False).eval()
    mel = torch.randn(1, 80, 128)
    expected = model.encode(mel)
    pack(model, here("int8", config))
    found = [isinstance(block, CompiledEncoderBlock) for block in model.encoder.blocks]
    assert found == [is_compiled, is_compiled]
    assert relative_error(model.encode(mel), expected) < 0.02


@pytest.mark.parametrize("has", ["no compiler", "tiles"])
def test_otherwise_its_linears_are(monkeypatch: pytest.MonkeyPatch, has: str) -> None:
    has_vnni()
    if has == "no compiler":
        leave_out_what_is_compiled(monkeypatch)
    else:
        monkeypatch.setattr("service.model.packed.has_tiles", lambda: True)
    model = WhisperModel(config_of()).requires_grad_(False).eval()
    mel = torch.randn(1, 80, 128)
    expected = model.encode(mel)
    pack(model, INT8)
    for block in model.encoder.blocks:
        assert isinstance(block, EncoderBlock)
        in_integers = getattr(block.attn.attend, "func", None) is attend_in_integers
        assert in_integers == (has == "tiles")
    assert relative_error(model.encode(mel), expected) < 0.02


def test_what_it_is_not_compiled_for_is_refused(library: CDLL, block: EncoderBlock) -> None:
    whole = CompiledEncoderBlock(library, block)
    for x in (torch.randn(1, 3, 96), torch.randn(1, 3, 128, dtype=torch.float64)):
        with pytest.raises(ValueError, match="128"):
            whole(x)
