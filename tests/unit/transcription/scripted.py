"""A runner that says what a script makes of each window, for tests of what is around it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from service.decoding.hypotheses import Candidates
from service.decoding.params import AlignParams, SequenceParams
from service.decoding.words import Alignment
from service.engine.types import (
    AlignStart,
    Forwards,
    Group,
    LanguageProbabilities,
    Move,
    MoveKind,
    Sampled,
    Start,
    WindowInput,
)

Script = Callable[[WindowInput, SequenceParams], Sequence[int]]
Figures = Callable[[SequenceParams], tuple[float, float]]
"""The log-probability of each token, and the probability of silence, of one decoding."""
LOGPROB = math.log(0.75)
NO_SPEECH_PROB = 0.125


class ScriptedRunner:
    """Gives the tokens of `script` one by one; a negative token is a row that failed."""

    encode_batch = 1

    def __init__(
        self,
        script: Script,
        rows: int = 2,
        figures: Figures | None = None,
        align: Callable[[AlignParams], Alignment] | None = None,
        languages: Callable[[WindowInput], LanguageProbabilities] | None = None,
    ) -> None:
        self.rows = rows
        self.most_at_once = 0
        self.encoded: list[WindowInput] = []
        self.prompts: list[SequenceParams] = []
        self._script = script
        self._slots: list[WindowInput | None] = [None] * rows
        self._left: list[list[int]] = [[] for _ in range(rows)]
        self._align, self._languages = align, languages
        self._figures = figures or (lambda params: (LOGPROB, NO_SPEECH_PROB))
        self._said = [(LOGPROB, NO_SPEECH_PROB)] * rows

    def take_forwards(self) -> Forwards:
        return Forwards()

    def on_thread(self) -> AbstractContextManager[object]:
        return contextlib.nullcontext()

    def warm_up(self) -> None:
        pass

    def move(self, moves: Sequence[Move]) -> None:
        for move in moves:
            source, target = move.source, move.target
            if move.kind is MoveKind.ROW:
                self._left[target] = self._left[source]
                self._said[target] = self._said[source]
            elif move.kind is MoveKind.WINDOW:
                self._slots[target] = self._slots[source]
            else:
                slots = self._slots
                slots[source], slots[target] = slots[target], slots[source]

    def encode(self, windows: Sequence[tuple[int, WindowInput]]) -> None:
        for slot, window in windows:
            self.encoded.append(window)
            self._slots[slot] = window

    def prefill(self, starts: Sequence[Start]) -> list[Sampled | Candidates]:
        for start in starts:
            window = self._slots[start.slot]
            assert window is not None
            self.prompts.append(start.params)
            self._left[start.row] = list(self._script(window, start.params))
            self._said[start.row] = self._figures(start.params)
        return [self._draw(start.row) for start in starts]

    def detect(self, places: Sequence[tuple[int, int]]) -> list[LanguageProbabilities | None]:
        assert self._languages is not None
        found: list[LanguageProbabilities | None] = []
        for slot, _ in places:
            window = self._slots[slot]
            assert window is not None
            found.append(self._languages(window))
        return found

    def align(self, starts: Sequence[AlignStart]) -> list[Alignment | None]:
        assert self._align is not None
        return [self._align(start.params) for start in starts]

    def decode(self, groups: Sequence[Group]) -> list[Sampled | Candidates]:
        n_windows = sum(group.n_windows for group in groups)
        self.most_at_once = max(self.most_at_once, n_windows)
        return [self._draw(group.row + n) for group in groups for n in range(group.n_windows)]

    def _draw(self, row: int) -> Sampled:
        token = self._left[row].pop(0)
        logprob, no_speech_prob = self._said[row]
        return Sampled(token, logprob, failed=token < 0, no_speech_prob=no_speech_prob)
