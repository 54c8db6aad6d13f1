"""Whether the text of a recording covers its speech. Pure arithmetic over seconds.

Knows nothing about tokens, models or how speech was detected.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from service.audio.vad import Span

TOLERANCE_S = 0.5
"""Segments may begin later and end earlier than speech by this."""
WORTH_HEARING_AGAIN_S = 1.0
"""Speech without text that is shorter is reported, and not decoded again."""
REPORTED_S = 0.3


def without(speech: Iterable[Span], texts: Iterable[Span], shortest_s: float) -> list[Span]:
    """Return the parts of `speech` that no text covers, if they are as long as `shortest_s`."""
    left = list(speech)
    for text in texts:
        start_s, end_s = text[0] - TOLERANCE_S, text[1] + TOLERANCE_S
        left = [
            piece
            for span in left
            for piece in ((span[0], min(span[1], start_s)), (max(span[0], end_s), span[1]))
            if piece[0] < piece[1]
        ]
    return [(round(s, 2), round(e, 2)) for s, e in left if e - s >= shortest_s]


def total(spans: Iterable[Span]) -> float:
    """Return the seconds in spans that do not overlap."""
    return sum(end_s - start_s for start_s, end_s in spans)


class Coverage:
    """What was heard of a recording's speech, and what of that has text.

    Windows may overlap: what one of them leaves uncovered the next may cover.
    """

    def __init__(self) -> None:
        self._speech: list[Span] = []

    def add(self, speech: Sequence[Span]) -> None:
        """Note speech, in the order of windows; what was noted before is not noted again."""
        heard_to = self._speech[-1][1] if self._speech else 0.0
        for start_s, end_s in speech:
            if end_s > heard_to:
                self._speech.append((max(start_s, heard_to), end_s))

    @property
    def speech(self) -> tuple[Span, ...]:
        """What was heard, in order."""
        return tuple(self._speech)

    @property
    def speech_s(self) -> float:
        """Seconds of speech that were heard."""
        return total(self._speech)

    def uncovered(self, texts: Sequence[Span]) -> list[Span]:
        """Return the speech that has no text."""
        return without(self._speech, texts, REPORTED_S)

    def share(self, texts: Sequence[Span]) -> float:
        """Return which part of the speech has text; 1 if there is none."""
        speech_s = self.speech_s
        return 1.0 if not speech_s else round(1 - total(self.uncovered(texts)) / speech_s, 4)
