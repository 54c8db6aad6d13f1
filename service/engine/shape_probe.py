"""Proves at start that a row draws the same in every shape that a step can have.

Every row is given the same window, the same keys and the same token, so that every row of every
shape has to draw the same token with the same log-probability, bit for bit; by a recording too,
where there are any. If one does not, all steps take the largest shape from then on: with one shape
there is one order of summation.

Knows nothing about requests; overwrites the cache, and wants rows that no sequence has had yet.
"""

from __future__ import annotations

import logging

import torch

from service.engine.fixed_step import FixedStep
from service.model import KVCache
from service.model.kv_cache import KEY_MULTIPLE
from service.model.probe import noise

logger = logging.getLogger(__name__)

_POSITION = KEY_MULTIPLE + 4
_LENGTH = 32
"""Encoder positions that every row's window has, if windows may be short."""


def settle_shapes(step: FixedStep, cache: KVCache) -> None:
    """Compare all shapes of a step, log what came of it, and keep to one if they differ."""
    found = differing_shapes(step, cache)
    if not found:
        logger.info("a row draws the same in all %d shapes of a step", len(step.shapes))
        return
    step.keep_to_largest()
    logger.warning(
        "a row does not draw the same in every shape of a step (%s): all steps have the largest "
        "shape from now on, which costs time where few rows decode", "; ".join(found),
    )  # fmt: skip


def differing_shapes(step: FixedStep, cache: KVCache) -> list[str]:
    """Return the shapes in which a row draws something else than in the smallest, in words."""
    length = cache.n_audio_ctx if step.reads_whole_windows else min(_LENGTH, cache.n_audio_ctx)
    window = noise(*cache.cross[:, :, 0].shape, device=cache.device)[..., :length, :]
    for slot in range(cache.windows):
        cache.write_cross(slot, window)
    cache.self_[:] = noise(*cache.self_[:, :, :1].shape, device=cache.device)
    step.idle(min(_POSITION, cache.n_text_ctx - 1), length)
    expected, found = None, []
    for shape in reversed(step.shapes):
        for run in dict.fromkeys((step.run, step.run_operations)):
            run(shape)
            drawn = step.drawn(shape)
            expected = drawn[:1] if expected is None else expected
            if not torch.equal(drawn, expected.expand_as(drawn)):
                found.append(f"{shape.n_rows} rows, {shape.n_key} keys, {shape.n_cross} positions")
    cache.self_.zero_()
    return list(dict.fromkeys(found))
