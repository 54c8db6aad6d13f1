"""The published alignment heads: those of each released size, a fallback for every other one."""

from __future__ import annotations

import pytest

from service.checkpoints.alignment_heads import PUBLISHED, alignment_heads
from service.checkpoints.openai_pt import RELEASED
from service.model import WhisperConfig


def config_of(dims: tuple[int, int, int, int, int]) -> WhisperConfig:
    n_mels, d_model, n_audio_layer, n_text_layer, n_vocab = dims
    n_head = d_model // 64
    return WhisperConfig(
        n_mels, 1500, d_model, n_head, n_audio_layer, 4 * d_model, n_vocab, 448, n_head,
        n_text_layer, 4 * d_model,
    )  # fmt: skip


@pytest.mark.parametrize(("dims", "size"), RELEASED.items(), ids=RELEASED.values())
def test_every_released_size_has_heads_that_exist(
    dims: tuple[int, int, int, int, int], size: str
) -> None:
    config = config_of(dims)
    heads = alignment_heads(config)
    assert heads == tuple((layer, head) for layer, own in PUBLISHED[size].items() for head in own)
    assert len(set(heads)) == len(heads) >= 5
    assert all(0 <= layer < config.n_text_layer for layer, _ in heads)
    assert all(0 <= head < config.n_text_head for _, head in heads)


def test_other_sizes_watch_the_upper_half_of_the_decoder() -> None:
    heads = alignment_heads(config_of((80, 128, 2, 3, 1000)))
    assert heads == ((1, 0), (1, 1), (2, 0), (2, 1))
