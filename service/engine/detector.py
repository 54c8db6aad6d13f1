"""Tells what language is spoken in windows: one decoder step after <|startoftranscript|> for all.

Knows nothing about what languages are called, or about who else uses the cache.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from service.decoding.params import SpecialTokens
from service.engine.types import LanguageProbabilities
from service.errors import DecodingFailed
from service.model import KVCache, RowGroup, WhisperModel


class LanguageDetector:
    """Knows the tokens of the languages.

    Args:
        model: on its device.
        cache: whose cross slots hold the windows, and whose rows are written over.
        special: the token ids of start and languages.
    """

    def __init__(self, model: WhisperModel, cache: KVCache, special: SpecialTokens) -> None:
        self._model = model
        self._cache = cache
        self._sot = special.sot
        self._names = special.languages
        self._ids = torch.tensor(special.languages, dtype=torch.int64, device=cache.device)

    def detect(self, places: Sequence[tuple[int, int]]) -> list[LanguageProbabilities | None]:
        """Return the probabilities of windows, each (row, slot); None where one is not a number.

        Raises:
            DecodingFailed: if the model has no languages.
        """
        if not self._names:
            raise DecodingFailed("the model has no languages to choose from")
        tokens = torch.full((len(places),), self._sot, device=self._cache.device)
        groups = [RowGroup(row, slot, 1) for row, slot in places]
        logits = self._model.decode(tokens, [0] * len(places), self._cache, groups)
        probabilities = logits[:, self._ids].softmax(dim=-1)
        return [
            dict(zip(self._names, own, strict=True)) if math.isfinite(own[0]) else None
            for _, own in zip(places, probabilities.tolist(), strict=True)
        ]
