"""One window, decoded until it is good enough. Knows nothing about other windows or HTTP.

Only the window is decoded again, on its lease: what the encoder made of it stays where it is. The
rules are those of openai/whisper `decode_with_fallback`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING

from service.decoding.quality import Failure, Quality, Thresholds, failure_of
from service.transcription.events import Retract, RetractReason, TokenEvent
from service.transcription.window import WindowTranscript

if TYPE_CHECKING:
    from service.decoding.params import SequenceParams
    from service.engine.engine import WindowLease

_LONG_TEXT = 8192
"""Characters from which on a text is compressed off the event loop."""


class WindowAttempts:
    """Decodes a window at one temperature after the other, and tells what is sampled.

    Args:
        lease: on the window.
        temperatures: to try in turn.
        thresholds: by which an attempt fails.
        sequence: how to decode at (temperature, attempt).
        transcript: makes the collector of (first index, attempt, temperature).
        first_index: the number of the window's first token in the transcription.

    Attributes:
        transcript: the attempt that stands, once `events` has ended; always the last.
        quality: its figures.
        failures: why each attempt before it does not stand.
        n_tokens, n_steps, n_prompt: of all attempts together.
    """

    transcript: WindowTranscript
    quality: Quality

    def __init__(
        self,
        lease: WindowLease,
        *,
        temperatures: tuple[float, ...],
        thresholds: Thresholds,
        sequence: Callable[[float, int], SequenceParams],
        transcript: Callable[[int, int, float], WindowTranscript],
        first_index: int,
    ) -> None:
        self._lease = lease
        self._temperatures = temperatures
        self._thresholds = thresholds
        self._sequence = sequence
        self._new_transcript = transcript
        self._first_index = first_index
        self.failures: list[Failure] = []
        self.n_tokens = self.n_steps = self.n_prompt = 0

    async def events(self) -> AsyncGenerator[TokenEvent | Retract, None]:
        """Yield each token as it comes, and the retraction of an attempt that failed.

        Raises:
            ServiceError: as the engine does.
        """
        for attempt, temperature in enumerate(self._temperatures):
            how = self._sequence(temperature, attempt)
            first = self._first_index + self.n_tokens
            transcript = self._new_transcript(first, attempt, temperature)
            async for step in self._lease.decode(how):
                event = transcript.push(step)
                if event is not None:
                    yield event
            self.transcript = transcript
            self.n_tokens += transcript.n_tokens
            self.n_steps += transcript.n_steps
            self.n_prompt += len(how.prompt)
            self.quality = await _quality(transcript)
            failure = failure_of(self.quality, self._thresholds)
            if failure is None or attempt == len(self._temperatures) - 1:
                return
            self.failures.append(failure)
            if transcript.n_tokens:
                yield Retract(transcript.window.index, first, RetractReason.FALLBACK)


async def _quality(transcript: WindowTranscript) -> Quality:
    if transcript.n_characters > _LONG_TEXT:
        return await asyncio.to_thread(transcript.quality)
    return transcript.quality()
