"""Aligns texts with windows: one teacher-forced pass each, then the best path on the host.

Knows nothing about words, or about who else uses the cache.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from service.decoding.alignment import attention_matrix
from service.decoding.dtw import token_starts
from service.decoding.words import Alignment
from service.engine.types import AlignStart
from service.model import KVCache, RowGroup, WatchedHeads, WhisperConfig, WhisperModel
from service.model.config import FRAMES_PER_POSITION
from service.model.kv_cache import to_device


class Aligner:
    """Knows which heads to watch.

    Args:
        model: on its device.
        cache: whose cross slots hold the windows, and whose rows are written over.
        heads: (layer, head) of the cross-attentions that follow the audio; without any, all of the
            upper half of the decoder, as in openai/whisper.
        eot: the token that ends a text.
    """

    def __init__(
        self,
        model: WhisperModel,
        cache: KVCache,
        heads: Sequence[tuple[int, int]],
        eot: int,
    ) -> None:
        self._model = model
        self._cache = cache
        self._heads = tuple(heads) or upper_heads(model.config)
        self._eot = eot

    def align(self, starts: Sequence[AlignStart]) -> list[Alignment | None]:
        """Return the alignments; None where the model's output is not a number."""
        passes = [self._attention(start) for start in starts]
        flat = torch.cat([part.flatten() for both in passes for part in both]).cpu().numpy()
        found: list[Alignment | None] = []
        at = 0
        for matrix, probabilities in passes:
            n_cells, n_tokens = matrix.numel(), probabilities.numel()
            cells = flat[at : at + n_cells].reshape(matrix.shape)
            known = flat[at + n_cells : at + n_cells + n_tokens]
            at += n_cells + n_tokens
            if np.isfinite(cells).all() and np.isfinite(known).all():
                found.append(Alignment(token_starts(cells), tuple(known.tolist())))
            else:
                found.append(None)
        return found

    def _attention(self, start: AlignStart) -> tuple[Tensor, Tensor]:
        """Run a text through the decoder -> attention f32[n+1 frames], probabilities f32[n]."""
        params = start.params
        n_prompt, n_tokens = len(params.prompt), len(params.tokens)
        watched = WatchedHeads(self._heads)
        logits = self._model.prefill(
            [*params.prompt, *params.tokens, self._eot],
            self._cache,
            RowGroup(start.row, start.slot, 1),
            logits_at=range(n_prompt - 1, n_prompt - 1 + n_tokens),
            watched=watched,
        )
        tokens = to_device(list(params.tokens), self._cache.device)
        probabilities = logits[:, : self._eot].softmax(dim=-1).gather(1, tokens[:, None])[:, 0]
        length = self._cache.cross_length(start.slot)
        n_frames = max(1, min(params.n_frames // FRAMES_PER_POSITION, length))
        scores = [s[0, :, : n_prompt + n_tokens + 1, :n_frames] for s in watched.scores]
        return attention_matrix(torch.cat(scores), n_prompt - 1), probabilities


def upper_heads(config: WhisperConfig) -> tuple[tuple[int, int], ...]:
    """Return every (layer, head) of the upper half of the decoder."""
    layers = range(config.n_text_layer // 2, config.n_text_layer)
    return tuple((layer, head) for layer in layers for head in range(config.n_text_head))
