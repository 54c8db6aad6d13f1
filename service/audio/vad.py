"""Where in a recording somebody speaks, by Silero's model. Knows nothing about tokens or torch.

The model is small and comes with its package; it hears 32 ms at a time and remembers what it heard.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.audio.speech_process import SpeechProcess

SAMPLE_RATE = 16_000
CHUNK_SAMPLES = 512
_HYSTERESIS = 0.15
"""Speech ends at a probability this much lower than the one at which it begins."""
_CHUNKS_AT_ONCE = 1000
"""32 s: what a model is given to hear at one time."""
_LEAD_CHUNKS = 16
"""Heard before a place that is asked for, so that the model knows what it is in."""
_SHORTEST_S = 0.1
_QUIET_CHUNKS = 3
_MAX_IDLE = 8

Span = tuple[float, float]
"""Start and end in seconds of the recording."""


@dataclass(frozen=True, slots=True)
class SpeechBounds:
    """What is speech and what is silence.

    Attributes:
        threshold: probability of speech from which on it is speech.
        pad_s: seconds on each side of it that belong to it.
        pause_s: a shorter pause does not divide it.
    """

    threshold: float = 0.5
    pad_s: float = 0.1
    pause_s: float = 0.3


class SpeechModel(Protocol):
    """What is needed of a model; one instance hears one recording."""

    def reset(self) -> None:
        """Forget what was heard."""
        ...

    def hear(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the probability of speech in each chunk that comes next, f32[n 512] -> f32[n]."""
        ...


class SpeechModels:
    """Models to hear recordings with; who is through gives its model to the next.

    One takes milliseconds and megabytes to make: made anew for each recording, they leave the
    allocator's pools in pieces. Whatever is heard, is heard on one thread: a model that is given
    back while that is still busy with it is taken when it is no longer.

    Args:
        make: makes a model; by default Silero's, in a process of its own.
        max_idle: models that are kept while nobody wants them.
    """

    def __init__(
        self, make: Callable[[], SpeechModel] | None = None, max_idle: int = _MAX_IDLE
    ) -> None:
        self._make = make or SpeechProcess().model
        self._max_idle = max_idle
        self._idle: deque[SpeechModel] = deque(maxlen=max_idle)

    def take(self) -> SpeechModel:
        """Return a model that has heard nothing."""
        try:
            model = self._idle.pop()
        except IndexError:
            return self._make()
        model.reset()
        return model

    def warm_up(self) -> None:
        """Make as many models as are kept, and let each hear something: it has its memory then.

        Raises:
            Unavailable: if that cannot be done here.
        """
        made = [self._make() for _ in range(self._max_idle)]
        for model in made:
            model.hear(np.zeros((1, CHUNK_SAMPLES), np.float32))
            self.give_back(model)

    def give_back(self, model: SpeechModel) -> None:
        """Keep a model that nobody uses any more for the next recording."""
        self._idle.append(model)


class SpeechMap:
    """What is known of where a recording has speech; grows from its start as it is asked for.

    Not for two threads at once. A recording is heard in order and each part once, so the answer
    for a place does not depend on where windows were cut before it. Its owner calls `close`.

    Args:
        models: one of which is taken when something is asked for the first time.
        waveform: f32[samples], 16 kHz mono.
        bounds: what is speech.
    """

    def __init__(
        self,
        models: SpeechModels,
        waveform: NDArray[np.float32],
        bounds: SpeechBounds | None = None,
    ) -> None:
        self._models = models
        self._model: SpeechModel | None = None
        self._bounds = bounds or SpeechBounds()
        self._waveform = waveform
        self._probabilities = np.zeros(-(-len(waveform) // CHUNK_SAMPLES), np.float32)
        self._heard_to = 0
        self.listened_s = 0.0

    def spans(self, start_s: float, end_s: float) -> list[Span]:
        """Return where there is speech from `start_s` to `end_s`, in order, cut to these.

        Speech shorter than 0.1 s is none; the bounds say what pauses and edges are.
        """
        first = max(0, int(start_s * SAMPLE_RATE) // CHUNK_SAMPLES)
        last = min(len(self._probabilities), -(-int(end_s * SAMPLE_RATE) // CHUNK_SAMPLES))
        self._listen(first, last)
        bounds = self._bounds
        raw = _raw_spans(self._probabilities[first:last], first, bounds.threshold)
        found = _joined(raw, bounds.pause_s)
        pad_s = bounds.pad_s
        padded = ((s - pad_s, e + pad_s) for s, e in found if e - s >= _SHORTEST_S)
        cut = ((max(s, start_s), min(e, end_s)) for s, e in padded)
        return [(round(s, 2), round(e, 2)) for s, e in cut if s < e]

    def close(self) -> None:
        """Give the model back and let the samples go; what was heard stays known. Idempotent."""
        model, self._model = self._model, None
        if model is not None:
            self._models.give_back(model)
        self._waveform = self._waveform[:0].copy()

    def quietest(self, start_s: float, end_s: float) -> float:
        """Return the moment between two others at which there is least speech, in seconds.

        That is the middle of the 0.1 s in which the mean probability is lowest.
        """
        first = max(0, int(start_s * SAMPLE_RATE) // CHUNK_SAMPLES)
        last = min(len(self._probabilities), -(-int(end_s * SAMPLE_RATE) // CHUNK_SAMPLES))
        self._listen(first, last)
        heard = self._probabilities[first:last]
        width = min(_QUIET_CHUNKS, len(heard))
        if not width:
            return start_s
        means = np.convolve(heard, np.ones(width), "valid")
        middle = first + int(means.argmin()) + width / 2
        return float(min(max(start_s, middle * CHUNK_SAMPLES / SAMPLE_RATE), end_s))

    def _listen(self, first: int, last: int) -> None:
        """Fill in the probabilities up to `last`; what lies far before `first` is passed over."""
        if last <= self._heard_to:
            return
        if self._model is None:
            self._model = self._models.take()
        model, waveform = self._model, self._waveform
        if first > self._heard_to + _LEAD_CHUNKS:
            model.reset()
            self._heard_to = first - _LEAD_CHUNKS
        while self._heard_to < last:
            end = min(self._heard_to + _CHUNKS_AT_ONCE, last)
            samples = waveform[self._heard_to * CHUNK_SAMPLES : end * CHUNK_SAMPLES]
            whole = np.pad(samples, (0, -len(samples) % CHUNK_SAMPLES))
            clean = np.nan_to_num(whole).clip(-1, 1).reshape(-1, CHUNK_SAMPLES)
            self._probabilities[self._heard_to : end] = model.hear(clean)
            self.listened_s += len(clean) * CHUNK_SAMPLES / SAMPLE_RATE
            self._heard_to = end


def _raw_spans(probabilities: NDArray[np.float32], first: int, threshold: float) -> Iterator[Span]:
    """Yield stretches of speech by two thresholds, in seconds."""
    seconds = CHUNK_SAMPLES / SAMPLE_RATE
    ends = max(threshold - _HYSTERESIS, 0.01)
    began: int | None = None
    for place, probability in enumerate(probabilities.tolist(), first):
        if began is None and probability >= threshold:
            began = place
        elif began is not None and probability < ends:
            yield began * seconds, place * seconds
            began = None
    if began is not None:
        yield began * seconds, (first + len(probabilities)) * seconds


def _joined(spans: Iterator[Span], pause_s: float) -> list[Span]:
    joined: list[Span] = []
    for start_s, end_s in spans:
        if joined and start_s - joined[-1][1] < pause_s:
            joined[-1] = (joined[-1][0], end_s)
        else:
            joined.append((start_s, end_s))
    return joined
