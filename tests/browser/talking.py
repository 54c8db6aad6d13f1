"""A server that says what a test wants to see, and stands still where the test wants to look."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from service.decoding.hypotheses import Candidates
from service.decoding.params import AlignParams, SequenceParams
from service.decoding.words import Alignment
from service.engine.types import Group, Sampled, WindowInput
from service.text.tokenizer import WhisperTokenizer
from tests.api.live import DEADLINE_S, Limits, LiveServer, Parts, noise, services_of, wav
from tests.unit.transcription.scenario import spoken
from tests.unit.transcription.scripted import ScriptedRunner

RECORDING = wav(noise(3.0))
"""Two windows of at most 2 s, of which the second begins at 1.2 s."""
SEGMENTS = [(0.0, 0.6, "Good morning"), (0.6, 1.2, "everybody <here> & there"), (1.2, 3.0, "again")]
"""What is said in it: start, end, text."""
WITHDRAWN = "ag"
"""What the first window says of the third segment before its end."""


class Talk:
    """The tokens of each window, in turn; any more windows are silent.

    Args:
        tokenizer: with a token for each byte, so that words come letter by letter.
    """

    def __init__(self, tokenizer: WhisperTokenizer) -> None:
        self.tokenizer = tokenizer
        (_, _, one), (_, _, two), (_, _, three) = SEGMENTS
        self._windows = [
            spoken(tokenizer, 0.0, f" {one}", 0.6, 0.6, f" {two}", 1.2, 1.2, f" {WITHDRAWN}"),
            spoken(tokenizer, 0.0, f" {three}", 1.8),
        ]
        self._gate = threading.Event()
        self._hold_at: str | None = None
        self._said = ""
        self.go_on()

    def hold_at(self, text: str) -> None:
        """Stand still when what was said so far ends with a text, until `go_on`."""
        self._hold_at = text
        self._gate.clear()

    def go_on(self) -> None:
        """Hold nothing back any more."""
        self._hold_at = None
        self._gate.set()

    def script(self, window: WindowInput, params: SequenceParams) -> Sequence[int]:
        """Return a window's tokens."""
        return self._windows.pop(0) if self._windows else [self.tokenizer.eot]

    def languages(self, window: WindowInput) -> dict[int, float]:
        """Return how likely each language is."""
        spoken = {"en": 0.75}
        return {id_: spoken.get(code, 0.125) for code, id_ in self.tokenizer.languages.items()}

    def said(self, token: int) -> None:
        """Note a token, and stand still after it if that is wanted."""
        if self.tokenizer.is_text(token):
            self._said += self.tokenizer.decode([token])
        if self._hold_at is not None and self._said.endswith(self._hold_at):
            self._gate.wait(DEADLINE_S)


def evenly(params: AlignParams) -> Alignment:
    """Return times as if each token took as long as any other."""
    n = len(params.tokens)
    starts_s = tuple(round(params.n_frames / 100 * place / n, 2) for place in range(n + 1))
    return Alignment(starts_s, (0.5,) * n)


class TalkingRunner(ScriptedRunner):
    """Holds a step back after the token at which a test wants to look."""

    def __init__(self, talk: Talk) -> None:
        super().__init__(talk.script, rows=1, align=evenly, languages=talk.languages)
        self._talk = talk
        self._last: int | None = None

    def decode(self, groups: Sequence[Group]) -> list[Sampled | Candidates]:
        if self._last is not None:
            self._talk.said(self._last)  # it is on its way to the page by now
        sampled = super().decode(groups)
        assert isinstance(sampled[0], Sampled)
        self._last = sampled[0].token_id
        return sampled


@contextmanager
def talking_server(parts: Parts, talk: Talk) -> Iterator[LiveServer]:
    """Yield a server with one row."""
    facts = replace(parts.facts, n_text_ctx=448)
    said = replace(parts, runner=lambda: TalkingRunner(talk), facts=facts, rows=1)
    limits = Limits(max_requests=2, api={"max_upload_bytes": 1_000_000})
    with LiveServer(services_of(said, limits)) as live:
        yield live
