"""A runner without a model, and plain values for tests of the scheduler, the core, the engine."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np

from service.decoding.params import SequenceParams, SpecialTokens
from service.engine.scheduler import Batch, Outcome, Scheduler, SchedulerConfig
from service.engine.scheduler import Sequence as DecoderSequence
from service.engine.types import Move, MoveKind, RunnerDead, Sampled, Start, WindowInput

EOT = 100
SPECIAL = SpecialTokens(
    eot=EOT, sot=101, no_speech=102, no_timestamps=103, timestamp_begin=104, blank=(5,), n_vocab=164
)
"""100 text tokens, four special ones and 60 timestamps."""


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

    def on_thread(self) -> AbstractContextManager[object]:
        return contextlib.nullcontext()

    def warm_up(self) -> None:
        self._enter("warm_up")

    def move(self, moves: Sequence[Move]) -> None:
        for move in moves:
            source, target = move.source, move.target
            if move.kind is MoveKind.ROW:
                self.cells[target] = self.cells[source]
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

    def prefill(self, starts: Sequence[Start]) -> list[Sampled]:
        self._enter("prefill")
        for start in starts:
            if self.slots[start.row] in self.poison_prefill:
                raise ValueError("poison")
        assert [s.row for s in starts] == list(range(starts[0].row, starts[0].row + len(starts)))
        self.log.append(("prefill", len(starts)))
        for start in starts:
            self.cells[start.row] = (self.slots[start.row], start.params, 0)
        return [self._draw(start.row) for start in starts]

    def decode(self, first: int, n_rows: int) -> list[Sampled]:
        self._enter("decode")
        rows = range(first, first + n_rows)
        if self.poison_decode.intersection(self.cells[row][0] or 0 for row in rows):
            raise ValueError("poison")
        self.log.append(("decode", n_rows))
        return [self._draw(row) for row in rows]

    def _draw(self, row: int) -> Sampled:
        name, how, n_sampled = self.cells[row]
        assert how is not None
        assert self.slots[row] == name, f"row {row} reads the window of {self.slots[row]}"
        assert name is not None
        n_sampled += 1
        self.cells[row] = (name, how, n_sampled)
        token = EOT if n_sampled == how.max_tokens else name + 1000
        return Sampled(token, -float(n_sampled), failed=name in self.nan, no_speech_prob=0.5)

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
    """Take one step on the fake runner, which checks that every row reads its own window."""
    batch = core.schedule()
    runner.move(batch.moves)
    fresh = [s for s in batch.starting if not s.window.encoded]
    runner.encode([(row(s), s.window.input) for s in fresh])
    for sequence in fresh:
        sequence.window.encoded = True
    outcomes: dict[int, Outcome] = {}
    if batch.starting:
        starts = [Start(row(s), s.params) for s in batch.starting]
        outcomes |= zip([s.id for s in batch.starting], runner.prefill(starts), strict=True)
    if batch.running:
        sampled = runner.decode(0, len(batch.running))
        outcomes |= zip([s.id for s in batch.running], sampled, strict=True)
    core.update(outcomes)
    return batch


def row(sequence: DecoderSequence) -> int:
    assert sequence.row is not None
    return sequence.row
