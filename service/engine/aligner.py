"""Aligns texts with windows: a teacher-forced pass for several, then the best paths on the host.

Knows nothing about words, or about who else uses the cache.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from service.decoding.alignment import attention_matrix
from service.decoding.dtw import token_starts
from service.decoding.params import AlignParams
from service.decoding.words import Alignment
from service.engine.types import ALIGN_BATCH, AlignStart
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

    Attributes:
        together: texts that share a pass, at most. A text has the same bits alone: it is padded by
            its own length and attends by itself, only the linears are shared.
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
        self.together = ALIGN_BATCH

    def align(self, starts: Sequence[AlignStart]) -> list[Alignment | None]:
        """Return the alignments; None where the model's output is not a number."""
        n = self.together
        passes = [starts[at : at + n] for at in range(0, len(starts), n)]
        return [found for some in passes for found in self._align_together(some)]

    def _align_together(self, starts: Sequence[AlignStart]) -> list[Alignment | None]:
        """Align texts by one pass through the decoder, and copy from the device once."""
        read = self._read(starts)
        flat = torch.cat([part.flatten() for both in read for part in both]).cpu().numpy()
        found: list[Alignment | None] = []
        at = 0
        for matrix, probabilities in read:
            n_cells, n_tokens = matrix.numel(), probabilities.numel()
            cells = flat[at : at + n_cells].reshape(matrix.shape)
            known = flat[at + n_cells : at + n_cells + n_tokens]
            at += n_cells + n_tokens
            if np.isfinite(cells).all() and np.isfinite(known).all():
                found.append(Alignment(token_starts(cells), tuple(known.tolist())))
            else:
                found.append(None)
        return found

    def _read(self, starts: Sequence[AlignStart]) -> list[tuple[Tensor, Tensor]]:
        """Run texts through the decoder -> of each its matrix and its tokens' probabilities."""
        watched = [WatchedHeads(self._heads) for _ in starts]
        hidden = self._model.read(
            [[*s.params.prompt, *s.params.tokens, self._eot] for s in starts],
            self._cache,
            [RowGroup(s.row, s.slot, 1) for s in starts],
            watched,
        )
        return [
            (self._matrix(start, heads), self._probabilities(start.params, own))
            for start, heads, own in zip(starts, watched, hidden, strict=True)
        ]

    def _matrix(self, start: AlignStart, watched: WatchedHeads) -> Tensor:
        """Return how much each token looks at each time: f32[n+1 frames]."""
        n_prompt, n_tokens = len(start.params.prompt), len(start.params.tokens)
        length = self._cache.cross_length(start.slot)
        n_frames = max(1, min(start.params.n_frames // FRAMES_PER_POSITION, length))
        scores = [s[0, :, : n_prompt + n_tokens + 1, :n_frames] for s in watched.scores]
        return attention_matrix(torch.cat(scores), n_prompt - 1)

    def _probabilities(self, params: AlignParams, hidden: Tensor) -> Tensor:
        """Return the probability of each token among the text tokens: [t d_model] -> f32[n].

        A text by itself: its logits are the largest thing here.
        """
        first = len(params.prompt) - 1
        logits = self._model.logits_after(hidden, range(first, first + len(params.tokens)))
        tokens = to_device(list(params.tokens), self._cache.device)
        return logits[:, : self._eot].softmax(dim=-1).gather(1, tokens[:, None])[:, 0]


def upper_heads(config: WhisperConfig) -> tuple[tuple[int, int], ...]:
    """Return every (layer, head) of the upper half of the decoder."""
    layers = range(config.n_text_layer // 2, config.n_text_layer)
    return tuple((layer, head) for layer in layers for head in range(config.n_text_head))
