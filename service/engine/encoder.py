"""Encodes windows into their cross slots, as many together as pays and fits.

waveform -> mel -> encoder -> cross keys and values in a slot. Windows of one length go together in
a power of two of them, so that a device sees few shapes.

Knows nothing about tokens.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import numpy as np
import torch

from service.audio.filterbank import CONTEXT_SAMPLES, HOP_LENGTH
from service.audio.mel import LogMelSpectrogram, Padding
from service.engine.types import WindowInput
from service.model import KVCache, WhisperModel
from service.model.probe import POSITION_MULTIPLE

logger = logging.getLogger(__name__)

_TRIED_BATCHES = {"cpu": (1, 2), "cuda": (1, 2, 4, 8)}
"""By device. More on a CPU only take memory: two windows of whisper-tiny keep its cores busy."""
_WORTH = 0.9
"""A larger encoder batch has to cost less than this share of the smaller one, a window."""


class WindowEncoder:
    """The encoder's half of the runner.

    Args:
        model: on its device.
        cache: whose cross slots are written.
        padding: how a window is filled up.

    Attributes:
        together: windows that are encoded in one forward.
        batches: windows in each forward since somebody emptied this.
    """

    def __init__(self, model: WhisperModel, cache: KVCache, padding: Padding) -> None:
        self.together = 1
        self.batches: list[int] = []
        self._model = model
        self._cache = cache
        self._padding = padding
        self._mel = LogMelSpectrogram(model.config.n_mels, model.device)

    def encode(self, windows: Sequence[tuple[int, WindowInput]]) -> None:
        """Encode windows into their cross slots; those of one length go together."""
        groups: dict[int, list[tuple[int, WindowInput]]] = {}
        for slot, window in windows:
            n_frames = self._model.config.window_frames(window.content_frames)
            groups.setdefault(n_frames, []).append((slot, window))
        for n_frames, group in groups.items():
            self._encode_group(group, n_frames)

    def warm_up(self) -> None:
        """Encode silence as long as a window can be, once in every number of windows that comes."""
        n_frames = self._model.config.max_frames
        n_windows = _power_of_two(min(self.together, self._cache.windows))
        while n_windows:
            self.encode([(slot, silence(n_frames)) for slot in range(n_windows)])
            n_windows //= 2

    def measure(self) -> None:
        """Settle on the batch after which a larger one no longer pays."""
        self.together = self._measured()

    def _encode_group(self, group: list[tuple[int, WindowInput]], n_frames: int) -> None:
        """Encode windows of one length, in batches that fit."""
        together = self.together if n_frames // 2 % POSITION_MULTIPLE == 0 else 1
        while group:
            n_windows = _power_of_two(min(together, len(group)))
            batch, group = group[:n_windows], group[n_windows:]
            try:
                self._encode_batch(batch, n_frames)
            except RuntimeError as error:
                if len(batch) == 1 or not _is_out_of_memory(error):
                    raise
                together = self.together = len(batch) // 2
                logger.warning("encoder batch lowered to %d: out of memory", together)
                group = batch + group

    def _encode_batch(self, batch: list[tuple[int, WindowInput]], n_frames: int) -> None:
        inputs = [(w.samples, w.content_frames, w.log_maximum) for _, w in batch]
        mel = self._mel.windows(inputs, n_frames, self._padding)
        cross_kv = self._model.decoder.cross_kv(self._model.encode(mel))
        for (slot, _), key_value in zip(batch, cross_kv, strict=True):
            self._cache.write_cross(slot, key_value)
        self.batches.append(len(batch))

    def _measured(self) -> int:
        """Return the encoder batch after which a larger one no longer pays."""
        config = self._model.config
        best, best_s = 1, float("inf")
        if config.n_audio_ctx % POSITION_MULTIPLE:
            return best
        for n_windows in _TRIED_BATCHES[self._cache.device.type]:
            if n_windows > self._cache.windows:
                break
            mel = torch.zeros(
                n_windows, config.n_mels, config.max_frames, device=self._cache.device
            )
            try:
                self._model.encode(mel)
                began = time.perf_counter()
                self._model.encode(mel).sum().item()
                window_s = (time.perf_counter() - began) / n_windows
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
                break
            if window_s > _WORTH * best_s:
                break
            best, best_s = n_windows, window_s
        logger.info("encode_batch %d: %.1f ms a window", best, 1000 * best_s)
        return best


def silence(n_frames: int) -> WindowInput:
    """Return a window of so many mel frames in which nothing is said."""
    samples = np.zeros(n_frames * HOP_LENGTH + 2 * CONTEXT_SAMPLES, dtype=np.float32)
    return WindowInput(samples, n_frames)


def _power_of_two(n: int) -> int:
    """Return the largest power of two that is not above `n`, which is 1 at least."""
    return 1 << n.bit_length() - 1


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device, or the CPU's allocator, ran out of memory."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
