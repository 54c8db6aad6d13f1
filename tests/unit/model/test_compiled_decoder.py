"""The compiled decoder computes what torch's operations do, each row by itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from ctypes import CDLL
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from torch import Tensor

from service.model import KVCache, RowGroup, WatchedHeads, WhisperConfig, WhisperModel
from service.model.compiled import is_older, shares_threads
from service.model.compiled_decoder import CompiledDecoder, fits
from service.model.numerics import INT8, MIXED_DECODER, Numerics
from service.model.packed import pack
from tests.unit.model.cpus import here

CONFIG = WhisperConfig(
    n_mels=80, n_audio_ctx=160, d_model=128, n_audio_head=2, n_audio_layer=1, n_audio_ffn=64,
    n_vocab=331, n_text_ctx=96, n_text_head=2, n_text_layer=3, n_text_ffn=256,
    window_rounding_frames=64,
)  # fmt: skip
N_SLOTS = 9
LENGTHS = (160, 32, 96, 64, 160, 128, 32, 160, 96)
"""Keys of each window."""


@pytest.fixture(autouse=True)
def inference(library: CDLL) -> Iterator[None]:
    with torch.inference_mode():
        yield


def plain(config: WhisperConfig = CONFIG) -> WhisperModel:
    """A model in float32 whose weights are bfloat16's."""
    generator = torch.Generator().manual_seed(0)
    made = WhisperModel(config).requires_grad_(False).eval()
    for name, parameter in made.named_parameters():
        scale = 0.15 if parameter.dim() > 1 else 0.5
        parameter.copy_(parameter.normal_(0, scale, generator=generator).bfloat16())
        if name.endswith("ln.weight"):
            parameter.add_(1)
    return made


def made_to_run(config: WhisperConfig = CONFIG, numerics: Numerics = MIXED_DECODER) -> WhisperModel:
    made = plain(config)
    pack(made, numerics)
    assert made.decoder.compiled is not None
    return made


def windows(model: WhisperModel, n_rows: int = 12) -> KVCache:
    """A cache with a window of another length in each slot, the same for all models."""
    cache = model.new_cache(N_SLOTS, n_rows)
    generator = torch.Generator().manual_seed(1)
    for slot, length in enumerate(LENGTHS):
        shape = (CONFIG.n_text_layer, 2, CONFIG.n_text_head, length, 64)
        cache.write_cross(slot, torch.randn(shape, generator=generator).bfloat16())
    return cache


def hidden(model: WhisperModel, cache: KVCache, ids: list[int], at: list[int]) -> Tensor:
    """Hidden states of one token on each of the first rows."""
    own = cast("CompiledDecoder", model.decoder.compiled)
    return own.step(torch.tensor(ids), at, cache, [RowGroup(0, 0, len(ids))])


@pytest.mark.parametrize(("numerics", "error"), [(MIXED_DECODER, 0.006), (INT8, 0.03)])
def test_steps_are_those_of_torch(numerics: Numerics, error: float) -> None:
    """As far as keys and values go that are kept in bfloat16, and weights that were rounded."""
    reference, model = plain(), made_to_run(numerics=numerics)
    expected, found = windows(reference), windows(model)
    for position in range(40):
        ids = torch.arange(N_SLOTS) * 7 + position
        at = [position] * N_SLOTS
        views = [expected.view(RowGroup(0, 0, N_SLOTS), at, 1)]
        right = reference.decoder.decode(ids, views)[:N_SLOTS]
        own = hidden(model, found, ids.tolist(), at)
        assert float((own - right).norm() / right.norm()) < error


def test_without_keys_that_were_rounded_it_is_as_exact_as_float32() -> None:
    """All values are zero, and so is what is attended to: normalisation, products and GELU stay."""
    config = replace(CONFIG, n_text_layer=1)
    reference = plain(config)
    for name in ("weight", "bias"):
        cast("Tensor", reference.decoder.get_submodule("blocks.0.attn.qkv").get_parameter(name))[
            -128:
        ] = 0
    model = WhisperModel(config).requires_grad_(False).eval()
    model.load_state_dict(reference.state_dict())
    pack(model, MIXED_DECODER)
    expected, found = reference.new_cache(3, 3), model.new_cache(3, 3)
    for cache in (expected, found):
        for slot in range(3):
            cache.write_cross(slot, torch.zeros(1, 2, 2, 32, 64))
    ids, at = [5, 70, 300], [0, 8, 90]
    view = expected.view(RowGroup(0, 0, 3), at, 1)
    right = reference.decoder.decode(torch.tensor(ids), [view])[:3]
    assert torch.allclose(hidden(model, found, ids, at), right, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("n_rows", range(2, N_SLOTS + 1))
@pytest.mark.parametrize("numerics", [MIXED_DECODER, INT8], ids=["bfloat16", "int8"])
def test_no_neighbour_changes_a_bit_of_a_row(numerics: Numerics, n_rows: int) -> None:
    model = made_to_run(numerics=numerics)
    together, apart = windows(model), windows(model)
    ids = [3 + 11 * n for n in range(n_rows)]
    at = [(5 * n) % 90 for n in range(n_rows)]
    noise = torch.randn(together.self_.shape, generator=torch.Generator().manual_seed(2))
    together.self_[:], apart.self_[:] = noise, noise
    own = cast("CompiledDecoder", model.decoder.compiled)
    rows = hidden(model, together, ids, at)
    for n in range(n_rows):
        alone = own.step(torch.tensor(ids[n : n + 1]), at[n : n + 1], apart, [RowGroup(n, n, 1)])
        assert torch.equal(rows[n], alone[0])
    assert torch.equal(together.self_, apart.self_)


@pytest.mark.parametrize("width", [2, 5])
def test_hypotheses_of_a_window_are_rows_like_others(width: int) -> None:
    model = made_to_run()
    cache = windows(model)
    own = cast("CompiledDecoder", model.decoder.compiled)
    ids = torch.arange(2 * width) + 40
    together = own.step(ids, [8] * 2 * width, cache, [RowGroup(0, 3, 2, width)])
    for n in range(2 * width):
        group = RowGroup(n, 3 + n // width, 1)
        assert torch.equal(own.step(ids[n : n + 1], [8], cache, [group])[0], together[n])


def test_number_of_threads_changes_no_bit() -> None:
    model = made_to_run()
    ids, at = [3, 4, 5, 6, 7], [0, 7, 33, 64, 95]
    n_threads = torch.get_num_threads()
    try:
        found = []
        for number in (1, 2, 3, 5):
            torch.set_num_threads(number)
            found.append(hidden(model, windows(model), ids, at))
    finally:
        torch.set_num_threads(n_threads)
    assert all(torch.equal(one, found[0]) for one in found)


def test_text_that_is_read_has_the_bits_of_one_that_is_decoded() -> None:
    model = made_to_run()
    read, decoded = windows(model), windows(model)
    text = [(17 * n) % CONFIG.n_vocab for n in range(50)]
    own = cast("CompiledDecoder", model.decoder.compiled)
    [other, states] = own.read([text[:9], text], read, [RowGroup(1, 1, 1), RowGroup(0, 0, 1)])
    assert len(other) == 9
    for position, token in enumerate(text):
        assert torch.equal(hidden(model, decoded, [token], [position])[0], states[position])
    assert torch.equal(read.self_[:, :, 0], decoded.self_[:, :, 0])


def test_heads_that_are_watched_look_at_what_torch_says() -> None:
    reference, model = plain(), made_to_run()
    text, heads = list(range(30, 60)), [(0, 1), (2, 0), (2, 1)]
    looks = []
    for one in (reference, model):
        watched = [WatchedHeads(heads), WatchedHeads(heads)]
        groups = [RowGroup(0, 2, 1), RowGroup(1, 4, 1)]
        one.read([text, text[:7]], windows(one), groups, watched)
        looks.append([scores for each in watched for scores in each.scores])
    for right, own in zip(*looks, strict=True):
        expected = right[:, :, : own.shape[2], : own.shape[3]]  # what pads it is left out
        assert float((own - expected).norm() / expected.norm()) < 0.01


def test_what_is_not_a_number_stays_in_its_row() -> None:
    model = made_to_run()
    good, bad = windows(model), windows(model)
    bad.self_[0, 0, 1, 0, 2] = float("nan")
    bad.cross[:, 1, 2, 1, 5] = float("inf")
    bad.cross[:, :, 3, :, 64:] = float("nan")
    ids, at = [3, 4, 5, 6, 7], [9] * 5
    found, expected = hidden(model, bad, ids, at), hidden(model, good, ids, at)
    assert not found[1].isfinite().any()
    assert not found[2].isfinite().any()
    assert torch.equal(found[[0, 3, 4]], expected[[0, 3, 4]])
    assert bad.self_[1, 0, 1, 0, 9].isnan().all()


def test_cache_in_another_dtype_is_refused() -> None:
    model = made_to_run()
    cache = KVCache(CONFIG, 1, 1)
    with pytest.raises(ValueError, match="float32 and"):
        hidden(model, cache, [3], [0])


def test_as_many_tokens_as_places_are_wanted() -> None:
    model = made_to_run()
    own = cast("CompiledDecoder", model.decoder.compiled)
    with pytest.raises(ValueError, match="1 tokens, 2 places"):
        own.step(torch.tensor([3]), [0, 0], windows(model), [RowGroup(0, 0, 2)])


def test_operations_whose_weights_were_let_go_say_so() -> None:
    model = made_to_run()
    with pytest.raises(RuntimeError, match="compiled"):
        model(torch.zeros(1, 80, 320), torch.zeros(1, 3, dtype=torch.int64))
    with pytest.raises(RuntimeError, match="compiled"):
        model.decoder.decode(torch.tensor([1]), [windows(model).view(RowGroup(0, 0, 1), [0], 1)])


@pytest.mark.parametrize("token", [-1, CONFIG.n_vocab])
def test_token_outside_the_vocabulary_is_refused(token: int) -> None:
    model = made_to_run()
    with pytest.raises(ValueError, match=f"token {token} at .*row=1"):
        hidden(model, windows(model), [3, token, 4], [0, 1, 2])


def test_place_outside_the_cache_is_refused() -> None:
    model = made_to_run()
    cache = windows(model)
    with pytest.raises(ValueError, match="12 rows, 9 windows, 96 positions"):
        hidden(model, cache, [3], [96])
    with pytest.raises(ValueError, match="12 rows, 9 windows, 96 positions"):
        model.read([[1, 2]], cache, [RowGroup(12, 0, 1)])


@pytest.mark.parametrize(
    ("changes", "is_compiled"),
    [
        ({}, True),
        ({"n_text_head": 4}, True),
        ({"n_text_head": 1}, True),
        ({"n_text_head": 16}, False),
        ({"n_text_ffn": 240}, False),
    ],
)
def test_other_dimensions_are_left_to_torch(changes: dict[str, int], *, is_compiled: bool) -> None:
    config = replace(CONFIG, **changes)  # type: ignore[arg-type]
    model = plain(config)
    pack(model, here("mixed-decoder", config))
    assert fits(config) == is_compiled == (model.decoder.compiled is not None)
    cache, expected = model.new_cache(1, 1), (reference := plain(config)).new_cache(1, 1)
    d_head = config.d_model // config.n_text_head
    for one in (cache, expected):
        one.write_cross(0, torch.ones(3, 2, config.n_text_head, 64, d_head))
    found = model.decode(torch.tensor([5]), [0], cache)
    right = reference.decode(torch.tensor([5]), [0], expected)
    assert float((found - right).norm() / right.norm()) < 0.03


def test_library_that_is_older_than_its_source_is_noticed(tmp_path: Path) -> None:
    built, source = tmp_path / "built.so", tmp_path / "source.c"
    built.touch()
    assert not is_older(built, source), "a wheel has no source"
    source.touch()
    for age_s, expected in ((-1, False), (0, False), (1, True)):
        os.utime(source, (1000 + age_s, 1000 + age_s))
        os.utime(built, (1000, 1000))
        assert is_older(built, source) == expected


def test_another_openmp_is_noticed(library: CDLL) -> None:
    """Two teams of threads that spin for each other's cores would be far slower than one."""
    assert shares_threads(library)
    for number in (1, 2, 3, 4):
        stranger = SimpleNamespace(threads=lambda number=number: number)
        assert not shares_threads(cast("CDLL", stranger))
