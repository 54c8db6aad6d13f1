"""The two pools: what is written is read, moved and cleared, and nothing else."""

from __future__ import annotations

import pytest
import torch

from service.model import KVCache, RowGroup, WhisperConfig
from service.model.kv_cache import cache_bytes

CONFIG = WhisperConfig(
    n_mels=80, n_audio_ctx=96, d_model=32, n_audio_head=2, n_audio_layer=1, n_audio_ffn=64,
    n_vocab=50, n_text_ctx=64, n_text_head=2, n_text_layer=2, n_text_ffn=64,
)  # fmt: skip


def keys(length: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 2, 2, length, 16, generator=generator)


def test_rows_of_several_lengths_share_a_padded_key_length() -> None:
    cache = KVCache(CONFIG, 3, 3)
    view = cache.view(RowGroup(0, 0, 3), [0, 40, 7], 1)
    assert view.self_kv.shape == (2, 2, 3, 2, 64, 16)
    allowed = (view.self_bias == 0).sum(dim=-1).flatten()
    assert allowed.tolist() == [1, 41, 8]
    assert view.write_index.tolist() == [[0], [40], [7]]


@pytest.mark.parametrize("cross_dtype", [None, torch.bfloat16])
def test_bytes_are_known_before_they_are_taken(cross_dtype: torch.dtype | None) -> None:
    expected = KVCache(CONFIG, 3, 7, cross_dtype=cross_dtype).nbytes
    assert cache_bytes(CONFIG, 3, 7, cross_dtype=cross_dtype) == expected


def test_prompt_sees_itself_causally() -> None:
    view = KVCache(CONFIG, 1, 1).view(RowGroup(0, 0, 1), [0], 3)
    assert (view.self_bias[0, 0, :, :4] == 0).tolist() == [
        [True, False, False, False],
        [True, True, False, False],
        [True, True, True, False],
    ]


def test_short_window_is_masked_beside_a_long_one() -> None:
    cache = KVCache(CONFIG, 2, 2)
    cache.write_cross(0, keys(32))
    cache.write_cross(1, keys(90))
    view = cache.view(RowGroup(0, 0, 2), [0, 0], 1)
    assert view.cross_kv.shape[-2] == 96
    assert view.cross_bias is not None
    assert (view.cross_bias == 0).sum(dim=-1).flatten().tolist() == [32, 90]
    assert cache.view(RowGroup(0, 0, 1), [0], 1).cross_bias is None


def test_swapped_and_moved_windows_keep_their_content_and_length() -> None:
    cache = KVCache(CONFIG, 3, 3)
    cache.write_cross(0, keys(32, 1))
    cache.write_cross(1, keys(64, 2))
    cache.swap_windows(0, 1)
    cache.move_window(1, 2)
    assert torch.equal(cache.cross[:, :, 0, :, :64], keys(64, 2))
    for slot in (1, 2):
        assert torch.equal(cache.cross[:, :, slot, :, :32], keys(32, 1))
        assert cache.view(RowGroup(0, slot, 1), [0], 1).cross_kv.shape[-2] == 32


def test_moved_row_is_copied_as_far_as_it_is_long() -> None:
    cache = KVCache(CONFIG, 2, 2)
    cache.self_[:, :, 1] = 1.0
    cache.move_rows([1], [0], 5)
    assert cache.self_[:, :, 0, :, :5].eq(1).all()
    assert cache.self_[:, :, 0, :, 5:].eq(0).all()


def test_cleared_places_hold_no_nan() -> None:
    cache = KVCache(CONFIG, 2, 2)
    cache.cross[:] = float("nan")
    cache.self_[:] = float("nan")
    cache.clear_window(1)
    cache.clear_row(0)
    assert cache.cross[:, :, 1].eq(0).all()
    assert cache.self_[:, :, 0].eq(0).all()
    assert cache.cross[:, :, 0].isnan().all()
    assert cache.self_[:, :, 1].isnan().all()


def test_rows_may_change_places() -> None:
    cache = KVCache(CONFIG, 1, 3)
    for row in range(3):
        cache.self_[:, :, row] = float(row)
    cache.move_rows([1, 2, 0], [0, 1, 2], 7)
    assert cache.self_[0, 0, :, 0, 6, 0].tolist() == [1, 2, 0]
    assert cache.self_[0, 0, :, 0, 7, 0].tolist() == [0, 1, 2]


def test_hypotheses_of_a_window_share_its_slot() -> None:
    cache = KVCache(CONFIG, 3, 7)
    for slot in (1, 2):
        cache.write_cross(slot, keys(96, slot))
    view = cache.view(RowGroup(1, 1, 2, width=3), [4, 4, 4, 9, 9, 9], 1)
    assert view.self_kv.shape[2] == 6
    assert view.cross_kv.shape[2] == 2
    assert torch.equal(view.cross_kv[:, :, 1], keys(96, 2))


@pytest.mark.parametrize(
    ("group", "positions"),
    [
        (RowGroup(0, 0, 1), [64]),
        (RowGroup(1, 0, 2), [0, 0]),
        (RowGroup(0, 1, 2), [0, 0]),
        (RowGroup(2, 0, 1), [0]),
        (RowGroup(0, 0, 1, width=3), [0, 0, 0]),
        (RowGroup(0, 0, 1, width=2), [0]),
    ],
)
def test_places_outside_the_pools_are_refused(group: RowGroup, positions: list[int]) -> None:
    with pytest.raises(ValueError, match="rows"):
        KVCache(CONFIG, 2, 2).view(group, positions, 1)


def test_bytes_are_those_of_both_pools() -> None:
    cache = KVCache(CONFIG, 3, 2, dtype=torch.bfloat16)
    cross, own = 2 * 2 * 3 * 2 * 96 * 16, 2 * 2 * 2 * 2 * 64 * 16
    assert cache.nbytes == 2 * (cross + own)
