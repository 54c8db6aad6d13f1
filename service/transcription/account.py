"""What a transcription has cost so far, and how it went. Pure: knows nothing about audio."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

from service.audio.vad import Span
from service.decoding.quality import Failure
from service.transcription.coverage import Coverage, total
from service.transcription.events import Timings, Usage

if TYPE_CHECKING:
    from service.audio.windows import Window
    from service.transcription.attempts import WindowAttempts

FRAMES_PER_POSITION = 2


class Account:
    """Counts tokens, windows and time.

    Args:
        arrived_at: `time.perf_counter()` when the request came; now by default.

    Attributes:
        usage: tokens so far.
        n_tokens: sampled so far, end-of-text excepted.
        n_windows: decoded to their end so far.
        n_silent: those among them without speech.
        failures: attempts that did not stand, by cause.
        speech_s, uncovered_s: seconds of speech that were detected, and those without text.
        first_token_s: from the arrival of the request to its first token; None before that.
    """

    def __init__(self, arrived_at: float | None) -> None:
        self._arrived_at = time.perf_counter() if arrived_at is None else arrived_at
        self.usage = Usage()
        self.n_tokens = 0
        self.n_windows = 0
        self.n_silent = 0
        self.failures: Counter[Failure] = Counter()
        self.speech_s = self.uncovered_s = 0.0
        self.first_token_s: float | None = None

    def note_token(self) -> None:
        """Note that a token has come."""
        if self.first_token_s is None:
            self.first_token_s = time.perf_counter() - self._arrived_at

    def note_window(self, window: Window, attempts: WindowAttempts, *, is_silent: bool) -> None:
        """Note a window that is decoded."""
        self.n_windows += 1
        self.n_silent += is_silent
        self.n_tokens += attempts.n_tokens
        self.failures.update(attempts.failures)
        usage = self.usage
        self.usage = Usage(
            usage.audio_tokens + -(-window.content_frames // FRAMES_PER_POSITION),
            usage.prompt_tokens + attempts.n_prompt,
            usage.output_tokens + attempts.n_steps,
        )

    def note_speech(self, coverage: Coverage | None, uncovered: list[Span]) -> None:
        """Note how much speech there was, where it was listened for."""
        self.speech_s = coverage.speech_s if coverage is not None else 0.0
        self.uncovered_s = total(uncovered)

    def timings(self, queue_s: float | None, duration_s: float) -> Timings:
        """Return where the time went until now, for a recording of `duration_s`."""
        total_s = time.perf_counter() - self._arrived_at
        first = self.first_token_s
        return Timings(
            queue_ms=1e3 * (queue_s or 0.0),
            first_token_ms=None if first is None else 1e3 * first,
            total_ms=1e3 * total_s,
            realtime_factor=duration_s / max(total_s, 1e-9),
        )
