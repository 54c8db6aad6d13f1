"""The samples of one recording, and what the model is given of them. Knows nothing about tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np
from numpy.typing import NDArray

from service.audio.windows import CONTEXT_SAMPLES, Window, extract, total_frames
from service.engine.types import WindowInput

SAMPLE_RATE = 16_000
SHORT_FRAMES = 3000
"""A recording that may be one window is held as that window's samples, and not beside them."""
Waveform = NDArray[np.float32]


class Recording:
    """Samples that are cut into windows.

    Args:
        waveform: f32[samples], 16 kHz mono, at least one sample.
        log_maximum: log10 of the largest mel power; asked for once, and only if it is needed.

    Attributes:
        waveform: the samples; empty after `clear`.
        n_frames: mel frames of 10 ms.
        duration_s: seconds.
    """

    def __init__(
        self, waveform: Waveform, log_maximum: Callable[[Waveform], Awaitable[float]]
    ) -> None:
        self.waveform = waveform
        self.n_frames = total_frames(len(waveform))
        self.duration_s = len(waveform) / SAMPLE_RATE
        self._log_maximum = log_maximum
        self._maximum: float | None = None
        self._whole: Waveform | None = None
        if self.n_frames <= SHORT_FRAMES:
            self._whole = extract(waveform, 0, self.n_frames)
            self.waveform = self._whole[CONTEXT_SAMPLES:][: len(waveform)]
        self._one_at_a_time = asyncio.Lock()

    async def input(self, window: Window) -> WindowInput:
        """Return the audio of a window, as the engine takes it."""
        is_whole = window.content_frames == self.n_frames
        if is_whole and self._whole is not None:
            return WindowInput(self._whole, window.content_frames)
        samples = extract(self.waveform, window.start_frame, window.content_frames)
        if is_whole:
            return WindowInput(samples, window.content_frames)
        async with self._one_at_a_time:
            if self._maximum is None:
                self._maximum = await self._log_maximum(self.waveform)
        return WindowInput(samples, window.content_frames, self._maximum)

    def clear(self) -> None:
        """Let the samples go."""
        self.waveform = self.waveform[:0].copy()
        self._whole = None
