"""Which tokens are final: what a listener that cannot unsay may be told. Pure.

A token is final once its window is accepted. Where a window can only be heard once, more is known
before that: two timestamps in a row end a segment for good, and without timestamps nothing that was
sampled is heard again. A window that might still turn out to be silent is kept back to its end.

Knows nothing about HTTP or how tokens are made.
"""

from __future__ import annotations

from collections.abc import Iterable

from service.transcription.events import Done, Event, Retract, SegmentEvent, TokenEvent


class FinalTokens:
    """Takes the events of a transcription, gives back tokens that stand, each once and in order.

    Args:
        one_attempt: no window is decoded twice.
        timestamps: the model predicts timestamps.
        no_speech_threshold: a window whose probability of silence is not over it is never called
            silent; None if none is.
    """

    def __init__(
        self, *, one_attempt: bool, timestamps: bool, no_speech_threshold: float | None
    ) -> None:
        self._one_attempt = one_attempt
        self._timestamps = timestamps
        self._no_speech_threshold = no_speech_threshold
        self._pending: list[TokenEvent] = []
        self._early = False

    def push(self, event: Event) -> list[TokenEvent]:
        """Take the next event; return the tokens that it makes final."""
        match event:
            case TokenEvent():
                return self._push_token(event)
            case Retract():
                self._pending = [t for t in self._pending if t.index < event.from_index]
                return []
            case SegmentEvent() | Done():
                return self._release()
            case _:
                return []

    def _push_token(self, token: TokenEvent) -> list[TokenEvent]:
        final: list[TokenEvent] = []
        if self._pending and self._pending[-1].window != token.window:
            final = self._release()
        before = self._pending[-1] if self._pending else None
        if token.no_speech_prob is not None or before is None or before.attempt != token.attempt:
            self._early = self._is_heard_once(token)
        self._pending.append(token)
        ends_segment = before is not None and None not in (before.timestamp_s, token.timestamp_s)
        if self._early and (ends_segment or not self._timestamps):
            final += self._release()
        return final

    def _is_heard_once(self, first: TokenEvent) -> bool:
        """Tell by a window's first token whether its segments stand before it ends."""
        limit, probability = self._no_speech_threshold, first.no_speech_prob
        maybe_silent = limit is not None and probability is not None and probability > limit
        return self._one_attempt and not maybe_silent

    def _release(self) -> list[TokenEvent]:
        final, self._pending = self._pending, []
        return final


class TrimmedText:
    """Joins texts as they come, without the blanks before the first and after the last."""

    def __init__(self) -> None:
        self._held = ""
        self._begun = False

    def push(self, texts: Iterable[str]) -> str:
        """Return what these texts add to the whole, perhaps nothing: blanks wait for more."""
        text = self._held + "".join(texts)
        if not self._begun:
            text = text.lstrip()
        kept = text.rstrip()
        self._held = text[len(kept) :]
        self._begun = self._begun or bool(kept)
        return kept
