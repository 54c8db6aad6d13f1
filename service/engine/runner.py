"""Holds the model, the cache and the sampler, and does what the engine core orders.

waveform -> mel -> encoder -> cross keys and values in a slot; prompt -> first token; then one token
a row and step. Buffers are allocated once. Each call copies from the device once. Where shapes are
to be fixed, rows of one hypothesis a window take theirs by a `FixedStep`; others never do.

Knows nothing about who asked, in what order, or about threads.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from service.audio.mel import Padding
from service.decoding.hypotheses import Candidates
from service.decoding.params import SequenceParams, SpecialTokens
from service.decoding.sampling import Draw, Sampler
from service.decoding.words import Alignment
from service.engine.aligner import Aligner
from service.engine.detector import LanguageDetector
from service.engine.drawn import continued_rows, read_draw
from service.engine.eager_step import EagerStep
from service.engine.encoder import WindowEncoder, silence
from service.engine.fixed_step import FixedStep
from service.engine.graphs import warm_up
from service.engine.lost import lost_device_is_dead
from service.engine.shape_probe import settle_shapes
from service.engine.streams import Streams
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
from service.model import RowGroup, WhisperModel
from service.model.kernels import make_kernels
from service.model.probe import ProbeReport, probe

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunnerConfig:
    """How much the runner holds.

    Attributes:
        windows: cross slots.
        rows: decoder rows; each hypothesis of a window takes one.
        encode_batch: windows that are encoded together at most; 0 measures what pays at `warm_up`.
        padding: how a window is filled up.
        probe: whether `warm_up` proves batch invariance on this device first.
        alignment_heads: (layer, head) of the cross-attentions that follow the audio; by default all
            of the upper half of the decoder.
        fixed_shapes: whether decoder steps come in a few shapes only, which `warm_up` runs all of,
            and on CUDA records (docs/adr/0016).
    """

    windows: int
    rows: int
    encode_batch: int = 0
    padding: Padding = Padding.MEL
    probe: bool = True
    alignment_heads: tuple[tuple[int, int], ...] = ()
    fixed_shapes: bool = False


class ModelRunner:
    """The engine's `Runner` over a `WhisperModel`.

    Args:
        model: on its device, in its dtype, in eval mode.
        special: the token ids that rules look at.
        config: sizes.

    Attributes:
        cache, sampler: what is held of windows and rows.
        fixed_step: what takes the steps of single rows, with fixed shapes; None without.
    """

    def __init__(self, model: WhisperModel, special: SpecialTokens, config: RunnerConfig) -> None:
        self.model = model
        self.special = special
        self.config = config
        device, n_rows = model.device, config.rows
        self.cache = model.new_cache(config.windows, n_rows, spare_rows=int(config.fixed_shapes))
        self.sampler = Sampler(special, n_rows, device)
        self._encoder = WindowEncoder(model, self.cache, config.padding)
        self._encoder.together = config.encode_batch or 1
        self._aligner = Aligner(model, self.cache, config.alignment_heads, special.eot)
        self._detector = LanguageDetector(model, self.cache, special)
        self._last = torch.zeros(n_rows + 1, dtype=torch.int64, device=device)
        self._positions = [0] * n_rows
        self._streams = Streams(device)
        self._eager = EagerStep(model, self.cache, self.sampler, self._last)
        self.fixed_step: FixedStep | None = None
        if config.fixed_shapes:
            self.fixed_step = FixedStep(model, self.cache, self.sampler, self._last)
        self._report: ProbeReport | None = None
        self._decoded: list[int] = []

    @property
    def encode_batch(self) -> int:
        """Windows that are encoded together."""
        return self._encoder.together

    def on_thread(self) -> AbstractContextManager[object]:
        """Return the context for the thread that calls: inference mode, CUDA device and stream."""
        stack = contextlib.ExitStack()
        stack.enter_context(torch.inference_mode())
        stack.enter_context(self._streams.on_thread())
        return stack

    def warm_up(self) -> None:
        """Settle what was not settled yet, and run real inference once.

        With fixed shapes, once in all of them: what is needed from then on has been allocated.

        Raises:
            RunnerDead: if the device is lost.
        """
        self.settle()
        with lost_device_is_dead(), torch.inference_mode():
            n_prompt = 1
            if self.fixed_step is not None:
                n_prompt = self.cache.n_text_ctx - 1
                warm_up(self.fixed_step)
                if self.config.probe:
                    settle_shapes(self.fixed_step, self.cache)
                with self._streams.beside():
                    self._encoder.warm_up()
                self._streams.join()
            n_windows, n_texts = self._encoder.together, self._aligner.together
            make_kernels(self.model, n_windows, self.config.rows, n_texts)
            params = SequenceParams((self.special.sot,) * n_prompt, sot_index=0, max_tokens=2)
            self.encode([(0, silence(self.model.config.max_frames))])
            self.prefill([Start(0, 0, params)])
            self.decode([Group(0, 0, 1)])

    def settle(self) -> bool:
        """Overwrite the cache to settle batches and rows, once. Return whether rows keep bits."""
        if self._report is None:
            with lost_device_is_dead(), torch.inference_mode():
                if not self.config.encode_batch:
                    self._encoder.measure()
                if self.config.probe:
                    encoder, aligner = self._encoder, self._aligner
                    self._report = probe(self.model, self.cache, encoder.together, aligner.together)
                    encoder.together = self._report.encode_batch
                    aligner.together = self._report.align_batch
                    self._report.log(logger)
        return self._report is None or self._report.is_invariant

    def move(self, moves: Sequence[Move]) -> None:
        """Apply the scheduler's moves, in order."""
        with lost_device_is_dead(), torch.inference_mode():
            self._streams.join()
            for move in moves:
                source, target = move.source, move.target
                if move.kind is MoveKind.WINDOW:
                    self.cache.move_window(source, target)
                elif move.kind is MoveKind.SWAP:
                    self.cache.swap_windows(source, target)
                else:
                    self._move_rows(source, target, move.n_rows)

    def encode(self, windows: Sequence[tuple[int, WindowInput]]) -> None:
        """Encode windows into their cross slots; those of one length go together.

        On a GPU it returns before that is done, and `decode` may run beside it.
        """
        with lost_device_is_dead(), torch.inference_mode(), self._streams.beside():
            self._encoder.encode(windows)

    def prefill(self, starts: Sequence[Start]) -> list[Sampled | Candidates]:
        """Decode each prompt, alone, and draw the first tokens."""
        with lost_device_is_dead(), torch.inference_mode():
            self._streams.join()
            logits, no_speech = zip(*(self._prompt(start) for start in starts), strict=True)
            draws = [
                self.sampler.draw_first(own, start.row, start.params)
                for own, start in zip(logits, starts, strict=True)
            ]
            for start in starts:
                n_prompt, width = len(start.params.prompt), start.params.n_rows
                copies = list(range(start.row + 1, start.row + width))
                if copies:
                    self.cache.move_rows([start.row] * len(copies), copies, n_prompt)
                self._positions[start.row : start.row + width] = [n_prompt] * width
            groups = [Group(s.row, s.slot, 1, s.params.n_rows, s.params.is_beam) for s in starts]
            return self._commit(groups, draws, no_speech)

    def decode(self, groups: Sequence[Group]) -> list[Sampled | Candidates]:
        """Take one step on the rows of groups."""
        with lost_device_is_dead(), torch.inference_mode():
            fixed = self._fixed_for(groups[0])
            others = groups if fixed is None else groups[1:]
            draws = self._eager.draw(others, self._positions)
            if fixed is not None:
                fixed.launch(self._positions[groups[0].rows])
            for group in groups:
                self._positions[group.rows] = [at + 1 for at in self._positions[group.rows]]
            self._decoded.append(sum(group.n_rows for group in groups))
            outcomes = self._commit(others, draws)
            if fixed is None:
                return outcomes
            drawn = read_draw(fixed.read(), groups[0], None)
            self._settle(groups[0], drawn)
            return [*drawn, *outcomes]

    def take_forwards(self) -> Forwards:
        """Return the forwards since this was asked last."""
        forwards = Forwards(self._encoder.batches, self._decoded)
        self._encoder.batches, self._decoded = [], []
        return forwards

    def detect(self, places: Sequence[tuple[int, int]]) -> list[LanguageProbabilities | None]:
        """Return what language is spoken in windows, each (row, slot): one step for all."""
        with lost_device_is_dead(), torch.inference_mode():
            self._streams.join()
            found = self._detector.detect(places)
            for (row, slot), probabilities in zip(places, found, strict=True):
                if probabilities is None:
                    self._clear(row, 1, slot)
            return found

    def align(self, starts: Sequence[AlignStart]) -> list[Alignment | None]:
        """Align texts with their windows, several by one teacher-forced pass."""
        with lost_device_is_dead(), torch.inference_mode():
            self._streams.join()
            found = self._aligner.align(starts)
            for start, alignment in zip(starts, found, strict=True):
                if alignment is None:
                    self._clear(start.row, 1, start.slot)
            return found

    def _prompt(self, start: Start) -> tuple[Tensor, Tensor]:
        """Decode a prompt -> logits f32[n_vocab] after it, and the no-speech probability f32[]."""
        params = start.params
        self.sampler.start(start.row, params)
        at = (params.sot_index, len(params.prompt) - 1)
        place = RowGroup(start.row, start.slot, 1)
        sot, last = self.model.prefill(list(params.prompt), self.cache, place, logits_at=at)
        if self.special.no_speech is None:
            return last, sot.new_full((), float("nan"))
        return last, sot.softmax(dim=-1)[self.special.no_speech]

    def _fixed_for(self, group: Group) -> FixedStep | None:
        """Return what takes the step of a group in fixed shapes, if anything does."""
        fixed = self.fixed_step
        return fixed if fixed is not None and fixed.covers(group) else None

    def _move_rows(self, source: int, target: int, n_rows: int) -> None:
        """Copy rows with everything that belongs to them."""
        sources, targets = slice(source, source + n_rows), slice(target, target + n_rows)
        length = max(self._positions[sources])
        rows = range(n_rows)
        self.cache.move_rows([source + n for n in rows], [target + n for n in rows], length)
        self.sampler.move(source, target, n_rows)
        self._last[targets] = self._last[sources].clone()
        self._positions[targets] = self._positions[sources]

    def _commit(
        self, groups: Sequence[Group], draws: Sequence[Draw], no_speech: Sequence[Tensor] = ()
    ) -> list[Sampled | Candidates]:
        """Note what was drawn, copy it from the device at once, and let beams change places.

        What a failed row wrote may be NaN, which would reach the next owner of its place through
        masked keys: 0 times NaN is NaN.
        """
        if not groups:
            return []
        for draw in draws:
            self.sampler.commit(draw)
            self._last[draw.row : draw.row + len(draw.tokens)] = draw.tokens
        device_values = [*(draw.packed.flatten() for draw in draws), *(p[None] for p in no_speech)]
        values: list[float] = torch.cat([part.double() for part in device_values]).tolist()
        n_drawn = len(values) - len(no_speech)
        known = values[n_drawn:] if no_speech and self.special.no_speech is not None else []
        outcomes: list[Sampled | Candidates] = []
        at = 0
        for place, (group, draw) in enumerate(zip(groups, draws, strict=True)):
            n_values = draw.packed.numel()
            no_speech_prob = known[place] if known else None
            drawn = read_draw(values[at : at + n_values], group, no_speech_prob)
            at += n_values
            self._settle(group, drawn)
            outcomes += drawn
        return outcomes

    def _settle(self, group: Group, drawn: Sequence[Sampled | Candidates]) -> None:
        """Let beams go on from the keys of those that they continue; clear what has failed."""
        for n, outcome in enumerate(drawn):
            if outcome.failed:
                self._clear(group.row + n * group.width, group.width, group.slot + n)
        sources, targets = continued_rows(group, drawn, self.special.eot)
        if sources:
            self.cache.move_rows(sources, targets, max(self._positions[group.rows]))

    def _clear(self, row: int, n_rows: int, slot: int) -> None:
        for n in range(n_rows):
            self.cache.clear_row(row + n)
        self.cache.clear_window(slot)
