"""The start-up probe sees what it is there to see."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn

from service.model import KVCache, RowGroup, WhisperConfig, WhisperModel
from service.model.attention import attend
from service.model.probe import probe

CONFIG = WhisperConfig(
    n_mels=80, n_audio_ctx=64, d_model=32, n_audio_head=2, n_audio_layer=1, n_audio_ffn=64,
    n_vocab=50, n_text_ctx=96, n_text_head=2, n_text_layer=1, n_text_ffn=64,
    window_rounding_frames=64,
)  # fmt: skip


@pytest.fixture
def model() -> WhisperModel:
    generator = torch.Generator().manual_seed(0)
    model = WhisperModel(CONFIG).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3, generator=generator)
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_this_machine_is_batch_invariant(model: WhisperModel, dtype: torch.dtype) -> None:
    model = model.to(dtype)
    with torch.inference_mode():
        report = probe(model, KVCache(CONFIG, 8, 8, dtype=dtype), encode_batch=3)
    assert report.is_invariant, report.failures
    assert report.row_multiple == 4
    assert report.n_compared > 100
    assert report.dtype == str(dtype).removeprefix("torch.")


def test_rows_are_padded_further_where_their_number_matters(
    model: WhisperModel, caplog: pytest.LogCaptureFixture
) -> None:
    """A kernel whose result depends on the number of rows, as matrix libraries' do."""

    def depends_on_rows(_: nn.Module, __: object, out: Tensor) -> Tensor:
        return out * (1 + 1e-5 * out.shape[0])

    model.decoder.ln.register_forward_hook(depends_on_rows)
    with torch.inference_mode():
        report = probe(model, KVCache(CONFIG, 12, 12), encode_batch=1)
    assert report.is_invariant
    assert report.row_multiple == model.decoder.row_multiple == 16
    with caplog.at_level(logging.INFO):
        report.log(logging.getLogger("earshot"))
    assert "batch invariance holds" in caplog.text


def test_encoder_batch_is_halved_until_it_changes_no_bits(model: WhisperModel) -> None:
    def depends_on_windows(_: nn.Module, __: object, out: Tensor) -> Tensor:
        return out * (1 + 1e-3) if out.shape[0] > 3 else out

    model.encoder.ln_post.register_forward_hook(depends_on_windows)
    with torch.inference_mode():
        report = probe(model, KVCache(CONFIG, 8, 8), encode_batch=8)
    assert report.is_invariant
    assert report.encode_batch == 2


def test_part_of_an_encoder_batch_that_changes_bits_is_seen(model: WhisperModel) -> None:
    """What is left over from full batches is encoded together too."""

    def by_twos(_: nn.Module, __: object, out: Tensor) -> Tensor:
        return out * (1 + 1e-3) if out.shape[0] == 2 else out

    model.encoder.ln_post.register_forward_hook(by_twos)
    with torch.inference_mode():
        assert probe(model, KVCache(CONFIG, 8, 8), encode_batch=4).encode_batch == 1


def test_hypotheses_that_a_longer_window_changes_are_seen(
    model: WhisperModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if all windows of a width were read together: more keys, and other sums."""

    def all_together(_: KVCache, group: RowGroup) -> list[RowGroup]:
        return [group]

    def attend_over_blocks(
        query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None
    ) -> Tensor:
        """Attention whose sums hang on how many keys there are, as those of some kernels do."""
        context = attend(query, key, value, bias)
        several = query.shape[-2] > 1 and bias is not None
        return context * (1 + 1e-4 * key.shape[-2]) if several else context

    with torch.inference_mode():
        before = probe(model, KVCache(CONFIG, 8, 16), encode_batch=1)
    assert before.is_invariant
    model.decoder.row_multiple = 4
    monkeypatch.setattr(KVCache, "of_one_length", all_together)
    for layer in range(CONFIG.n_text_layer):
        cross_attention = model.decoder.get_submodule(f"blocks.{layer}.cross_attn")
        monkeypatch.setattr(cross_attention, "attend", attend_over_blocks)
    with torch.inference_mode():
        report = probe(model, KVCache(CONFIG, 8, 16), encode_batch=1)
    assert any("hypotheses, one of them longer" in failure for failure in report.failures)
    assert not any(failure.endswith("like them: rows") for failure in report.failures)


def test_texts_are_read_together_only_if_that_changes_no_bits(model: WhisperModel) -> None:
    with torch.inference_mode():
        assert probe(model, KVCache(CONFIG, 8, 8), 1, align_batch=4).align_batch == 4

    def depends_on_rows(_: nn.Module, __: object, out: Tensor) -> Tensor:
        return out * (1 + 1e-3) if out.shape[0] > CONFIG.n_text_ctx else out

    model.decoder.get_submodule("blocks.0.mlp").register_forward_hook(depends_on_rows)
    with torch.inference_mode():
        report = probe(model, KVCache(CONFIG, 8, 8), 1, align_batch=4)
    assert report.align_batch == 1
    assert report.is_invariant, "one by one it holds"


def test_kernel_that_nothing_helps_is_reported(
    model: WhisperModel, caplog: pytest.LogCaptureFixture
) -> None:
    calls = iter(range(10**6))

    def never_the_same(_: nn.Module, __: object, out: Tensor) -> Tensor:
        return out * (1 + 1e-4 * next(calls))

    model.encoder.ln_post.register_forward_hook(never_the_same)
    model.decoder.ln.register_forward_hook(never_the_same)
    with torch.inference_mode():
        report = probe(model, KVCache(CONFIG, 4, 4), encode_batch=2)
    assert not report.is_invariant
    assert report.encode_batch == 1
    assert any("1 windows of 64 frames" in failure for failure in report.failures)
    assert any("rows at 4" in failure for failure in report.failures)
    report.log(logging.getLogger("earshot"))
    assert "does NOT hold" in caplog.text
