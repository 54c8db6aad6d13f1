"""A runner without a model, and plain values for tests of the scheduler, the core, the engine."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from service.decoding.hypotheses import Candidates
from service.decoding.params import AlignParams, SequenceParams, SpecialTokens
from service.decoding.words import Alignment
from service.engine.core import groups
from service.engine.scheduler import Batch, Scheduler, SchedulerConfig
from service.engine.sequence import Outcome
from service.engine.sequence import Sequence as DecoderSequence
from service.engine.types import (
    AlignStart,
    Forwards,
    Group,
    LanguageProbabilities,
    Move,
    MoveKind,
    RunnerDead,
    Sampled,
    Start,
    WindowInput,
)

EOT = 100
SPECIAL = SpecialTokens(
    eot=EOT, sot=101, no_speech=102, no_timestamps=103, timestamp_begin=104, blank=(5,),
    n_vocab=164, languages=(7, 8, 9),
)  # fmt: skip
"""100 text tokens, four special ones and 60 timestamps; three of the text count as languages."""


def window(content_frames: int = 100, seed: int = 0) -> WindowInput:
    rng = np.random.default_rng(seed)
    samples = rng.normal(0, 0.1, content_frames * 160 + 400).astype(np.float32)
    return WindowInput(samples, content_frames, 2.0)


def params(prompt: tuple[int, ...] = (101,), max_tokens: int = 20, **how: object) -> SequenceParams:
    return SequenceParams(prompt, 0, max_tokens, **how)  # type: ignore[arg-type]


@dataclass
class FakeRunner:
    """A runner without a model that keeps account of what lies where, and checks orders.

    A window is known by its `content_frames`; a sequence decodes `max_tokens - 1` tokens and then
    end-of-text. Token ids are `content_frames`, so a token of somebody else's window shows.
    """

    windows: int
    rows: int
    encode_batch: int = 1
    log: list[tuple[str, object]] = field(default_factory=list)
    poison_encode: set[int] = field(default_factory=set)
    poison_prefill: set[int] = field(default_factory=set)
    poison_decode: set[int] = field(default_factory=set)
    nan: set[int] = field(default_factory=set)
    lost: bool = False
    gate: threading.Event | None = None
    at_gate: threading.Event = field(default_factory=threading.Event)
    gated: str = "decode"

    def __post_init__(self) -> None:
        self.slots: list[int | None] = [None] * self.windows
        self.cells: list[tuple[int | None, SequenceParams | None, int]] = [
            (None, None, 0)
        ] * self.rows

    def take_forwards(self) -> Forwards:
        return Forwards()

    def on_thread(self) -> AbstractContextManager[object]:
        return contextlib.nullcontext()

    def warm_up(self) -> None:
        self._enter("warm_up")

    def move(self, moves: Sequence[Move]) -> None:
        for move in moves:
            source, target = move.source, move.target
            if move.kind is MoveKind.ROW:
                moved = self.cells[source : source + move.n_rows]
                self.cells[target : target + move.n_rows] = moved
            elif move.kind is MoveKind.WINDOW:
                self.slots[target] = self.slots[source]
            else:
                self.slots[source], self.slots[target] = self.slots[target], self.slots[source]

    def encode(self, windows: Sequence[tuple[int, WindowInput]]) -> None:
        self._enter("encode")
        names = [w.content_frames for _, w in windows]
        if self.poison_encode.intersection(names):
            raise ValueError("poison")
        self.log.append(("encode", len(windows)))
        for slot, w in windows:
            self.slots[slot] = w.content_frames

    def prefill(self, starts: Sequence[Start]) -> list[Sampled | Candidates]:
        self._enter("prefill")
        for start in starts:
            if self.slots[start.slot] in self.poison_prefill:
                raise ValueError("poison")
        self.log.append(("prefill", len(starts)))
        for start in starts:
            cell = (self.slots[start.slot], start.params, 0)
            self.cells[start.row : start.row + start.params.n_rows] = [cell] * start.params.n_rows
        return [self._draw(start.row, start.slot) for start in starts]

    def detect(self, places: Sequence[tuple[int, int]]) -> list[LanguageProbabilities | None]:
        self._enter("detect")
        self.log.append(("detect", len(places)))
        names = [self.slots[slot] for _, slot in places]
        if self.poison_prefill.intersection(name or 0 for name in names):
            raise ValueError("poison")
        return [None if name in self.nan else {name or 0: 1.0} for name in names]

    def align(self, starts: Sequence[AlignStart]) -> list[Alignment | None]:
        self._enter("align")
        self.log.append(("align", len(starts)))
        names = [self.slots[start.slot] for start in starts]
        if self.poison_prefill.intersection(name or 0 for name in names):
            raise ValueError("poison")
        return [
            None if name in self.nan else Alignment((0.0, float(name or 0)), (0.5,))
            for name in names
        ]

    def decode(self, groups: Sequence[Group]) -> list[Sampled | Candidates]:
        self._enter("decode")
        places = [
            (group.row + n * group.width, group.slot + n)
            for group in groups
            for n in range(group.n_windows)
        ]
        if self.poison_decode.intersection(self.cells[row][0] or 0 for row, _ in places):
            raise ValueError("poison")
        for group in groups:
            how = self.cells[group.row][1]
            assert how is not None
            assert (how.n_rows, how.is_beam) == (group.width, group.is_beam)
        self.log.append(("decode", len(places)))
        return [self._draw(row, slot) for row, slot in places]

    def _draw(self, row: int, slot: int) -> Sampled | Candidates:
        name, how, n_sampled = self.cells[row]
        assert how is not None
        assert name is not None
        assert self.slots[slot] == name, f"row {row} reads the window of {self.slots[slot]}"
        rows = range(row, row + how.n_rows)
        assert [self.cells[own] for own in rows] == [self.cells[row]] * how.n_rows
        n_sampled += 1
        for own in rows:
            self.cells[own] = (name, how, n_sampled)
        is_last, failed = n_sampled == how.max_tokens, name in self.nan
        token = EOT if is_last else name + 1000
        if how.n_rows == 1:
            return Sampled(token, -float(n_sampled), failed, no_speech_prob=0.5)
        tokens = (token,) * how.n_rows
        if how.is_beam:
            tokens += (name + 1000,) * how.n_rows
        n = len(tokens)
        scores = tuple(-float(at) for at in range(n)) if how.is_beam else ()
        return Candidates(tokens, (-float(n_sampled),) * n, (0,) * n, scores, failed, 0.5)

    def _enter(self, what: str) -> None:
        if self.lost:
            raise RunnerDead("the device is lost")
        if self.gate is not None and what == self.gated:
            self.at_gate.set()
            self.gate.wait(30)


def scheduler(
    windows: int = 4, rows: int = 3, encode_batch: int = 1, patience: int = 64
) -> Scheduler:
    return Scheduler(SchedulerConfig(windows, rows, EOT, 448, encode_batch, patience))


def take_step(core: Scheduler, runner: FakeRunner) -> Batch:
    """Take one step on the fake runner, which checks that every row reads its own window.

    Beside `EngineCore`: the scheduler's orders as they come, without its care for failures.
    """
    batch = core.schedule()
    runner.move(batch.moves)
    fresh = [s for s in batch.starting if not s.window.encoded]
    runner.encode([(slot(s), s.window.input) for s in fresh])
    for sequence in fresh:
        sequence.window.encoded = True
    outcomes: dict[int, Outcome] = {}
    for s in batch.starting:
        if isinstance(s.task, SequenceParams):
            [outcomes[s.id]] = runner.prefill([Start(row(s), slot(s), s.task)])
        elif isinstance(s.task, AlignParams):
            [outcomes[s.id]] = runner.align([AlignStart(row(s), slot(s), s.task)])
        else:
            [outcomes[s.id]] = runner.detect([(row(s), slot(s))])
    if batch.running:
        drawn = runner.decode(groups(batch.running))
        outcomes |= zip([s.id for s in batch.running], drawn, strict=True)
    core.update(outcomes)
    return batch


def row(sequence: DecoderSequence) -> int:
    assert sequence.row is not None
    return sequence.row


def slot(sequence: DecoderSequence) -> int:
    assert sequence.window.slot is not None
    return sequence.window.slot


def params_of(sequence: DecoderSequence) -> SequenceParams:
    assert isinstance(sequence.task, SequenceParams)
    return sequence.task


def several(width: int, beam: bool) -> dict[str, Any]:
    """The parameters of a sequence of `width` hypotheses."""
    if width == 1:
        return {}
    return {"beam_size": width} if beam else {"best_of": width, "temperature": 0.5}
