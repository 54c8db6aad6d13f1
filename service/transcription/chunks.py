"""Cuts a recording at pauses into chunks that a model takes at once, as far as it is asked to.

Chunks begin where somebody speaks, silence between them belongs to none. Knows nothing about
models; the detector of speech runs elsewhere.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from service.audio.pauses import best_pause
from service.audio.vad import Span
from service.audio.windows import FRAMES_PER_SECOND
from service.transcription.listening import LEAD_S, Spans

Quietest = Callable[[float, float], Awaitable[float]]
"""The moment between two times at which there is least speech, in seconds."""
Clip = tuple[int, int]
"""Start and end in frames of 10 ms."""

_TAIL_S = 0.5
"""A chunk ends this much after its last speech, if the pause is so long."""
_WORTH_A_CUT = FRAMES_PER_SECOND
"""Silence at the start of a chunk is cut off from this many frames on."""


class ChunkCutter:
    """Walks over clips of a recording and cuts them into chunks.

    Args:
        clips: what is to be cut, in order.
        max_frames: of the longest chunk.
        spans: where there is speech.
        quietest: where to cut speech that has no pause.
    """

    def __init__(
        self, clips: Sequence[Clip], max_frames: int, spans: Spans, quietest: Quietest
    ) -> None:
        self._clips = list(clips)
        self._max_frames = max_frames
        self._spans = spans
        self._quietest = quietest

    async def next(self) -> Clip | None:
        """Return the next chunk, None if there is no more speech."""
        while self._clips:
            start, clip_end = self._clips[0]
            end = min(start + self._max_frames, clip_end)
            speech = await self._spans(_seconds(start), _seconds(end))
            if not speech:
                self._go_on(end)
                continue
            begin = max(start, _frame(speech[0][0] - LEAD_S))
            if begin - start >= _WORTH_A_CUT and end < clip_end:  # more of it fits then
                self._go_on(begin)
                continue
            cut = end if end == clip_end else await self._cut(speech, begin, end)
            spoken_to = max(min(stop, _seconds(cut)) for at, stop in speech if at < _seconds(cut))
            self._go_on(cut)
            return begin, max(begin + 1, min(cut, _frame(spoken_to + _TAIL_S)))
        return None

    async def _cut(self, speech: Sequence[Span], begin: int, end: int) -> int:
        cut_s = best_pause(speech, _seconds(begin), _seconds(end))
        if cut_s is None:
            cut_s = await self._quietest(_seconds((begin + end) // 2), _seconds(end))
        return min(max(begin + 1, _frame(cut_s)), end)

    def _go_on(self, frame: int) -> None:
        """Leave what lies before `frame`."""
        end = self._clips[0][1]
        self._clips[:1] = [(frame, end)] if frame < end else []


def _seconds(frame: int) -> float:
    return frame / FRAMES_PER_SECOND


def _frame(seconds: float) -> int:
    return round(seconds * FRAMES_PER_SECOND)
