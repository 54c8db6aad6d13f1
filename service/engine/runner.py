"""Holds the model, the cache and the sampler, and does what the engine core orders.

waveform -> mel -> encoder -> cross keys and values in a slot; prompt -> first token; then one token
a row and step. Buffers are allocated once. Each call copies from the device once.

Knows nothing about who asked, in what order, or about threads.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from service.audio.mel import CONTEXT_SAMPLES, HOP_LENGTH, Padding
from service.decoding.hypotheses import Candidates
from service.decoding.params import SequenceParams, SpecialTokens
from service.decoding.sampling import Draw, Sampler, pad_rows
from service.decoding.words import Alignment
from service.engine.aligner import Aligner
from service.engine.drawn import continued_rows, read_draw
from service.engine.encoder import WindowEncoder
from service.engine.types import (
    AlignStart,
    Group,
    LanguageProbabilities,
    Move,
    MoveKind,
    RunnerDead,
    Sampled,
    Start,
    WindowInput,
)
from service.errors import DecodingFailed
from service.metrics import Metrics
from service.model import KVCache, RowGroup, WhisperModel
from service.model.probe import ProbeReport, probe

logger = logging.getLogger(__name__)

_LOST = ("CUDA error", "CUBLAS_STATUS_", "CUDNN_STATUS_")


@dataclass(frozen=True, slots=True)
class RunnerConfig:
    """How much the runner holds.

    Attributes:
        windows: cross slots.
        rows: decoder rows; each hypothesis of a window takes one.
        encode_batch: windows that are encoded together; 0 measures what pays at `warm_up`.
        padding: how a window is filled up.
        probe: whether `warm_up` proves batch invariance on this device first.
        alignment_heads: (layer, head) of the cross-attentions that follow the audio; by default all
            of the upper half of the decoder.
    """

    windows: int
    rows: int
    encode_batch: int = 0
    padding: Padding = Padding.MEL
    probe: bool = True
    alignment_heads: tuple[tuple[int, int], ...] = ()


class ModelRunner:
    """The engine's `Runner` over a `WhisperModel`.

    Args:
        model: on its device, in its dtype, in eval mode.
        special: the token ids that rules look at.
        config: sizes.
        metrics: where encoder and decoder batches are counted.
    """

    def __init__(
        self,
        model: WhisperModel,
        special: SpecialTokens,
        config: RunnerConfig,
        metrics: Metrics | None = None,
    ) -> None:
        self.model = model
        self.special = special
        self.config = config
        self.metrics = metrics or Metrics()
        device, n_rows = model.device, config.rows
        self.cache = KVCache(
            model.config, config.windows, n_rows,
            device=device, dtype=model.dtype, cross_dtype=model.cross_dtype,
        )  # fmt: skip
        self.sampler = Sampler(special, n_rows, device)
        self._encoder = WindowEncoder(model, self.cache, config.padding, self.metrics)
        self._encoder.together = config.encode_batch or 1
        self._aligner = Aligner(model, self.cache, config.alignment_heads, special.eot)
        self._languages = torch.tensor(special.languages, dtype=torch.int64, device=device)
        self._last = torch.zeros(n_rows, dtype=torch.int64, device=device)
        self._positions = [0] * n_rows
        self.metrics.kv_cache_bytes.set(self.cache.nbytes)

    @property
    def encode_batch(self) -> int:
        """Windows that are encoded together."""
        return self._encoder.together

    def on_thread(self) -> AbstractContextManager[object]:
        """Return the context for the thread that calls: inference mode and the CUDA device."""
        stack = contextlib.ExitStack()
        stack.enter_context(torch.inference_mode())
        if self.model.device.type == "cuda":
            stack.enter_context(torch.cuda.device(self.model.device))
        return stack

    def warm_up(self) -> None:
        """Settle the encoder's batch, prove batch invariance, and run real inference once.

        Raises:
            RunnerDead: if the device is lost.
        """
        with _translated(), torch.inference_mode():
            if not self.config.encode_batch:
                self._encoder.measure()
            if self.config.probe:
                report = self.probe()
                self._encoder.together = report.encode_batch
                report.log(logger)
            silence = np.zeros(HOP_LENGTH * 100 + 2 * CONTEXT_SAMPLES, dtype=np.float32)
            params = SequenceParams((self.special.sot,), sot_index=0, max_tokens=2)
            self.encode([(0, WindowInput(silence, 100))])
            self.prefill([Start(0, 0, params)])
            self.decode([Group(0, 0, 1)])

    def probe(self) -> ProbeReport:
        """Compare all rows over batch sizes and key lengths, on the kernels really in use.

        Overwrites the cache: only while nothing runs. If rows differ, `row_multiple` of the decoder
        is raised until they agree, or to where nothing is left to raise.
        """
        with _translated(), torch.inference_mode():
            return probe(self.model, self.cache, self.encode_batch)

    def move(self, moves: Sequence[Move]) -> None:
        """Apply the scheduler's moves, in order."""
        with _translated(), torch.inference_mode():
            for move in moves:
                source, target = move.source, move.target
                if move.kind is MoveKind.WINDOW:
                    self.cache.move_window(source, target)
                elif move.kind is MoveKind.SWAP:
                    self.cache.swap_windows(source, target)
                else:
                    self._move_rows(source, target, move.n_rows)

    def encode(self, windows: Sequence[tuple[int, WindowInput]]) -> None:
        """Encode windows into their cross slots; those of one length go together."""
        with _translated(), torch.inference_mode():
            self._encoder.encode(windows)

    def prefill(self, starts: Sequence[Start]) -> list[Sampled | Candidates]:
        """Decode each prompt, alone, and draw the first tokens."""
        with _translated(), torch.inference_mode():
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
        with _translated(), torch.inference_mode():
            rows = [_rows(group) for group in groups]
            positions = [at for own in rows for at in self._positions[own]]
            logits = self.model.decode(
                torch.cat([self._last[own] for own in rows]),
                positions,
                self.cache,
                [RowGroup(g.row, g.slot, g.n_windows, g.width) for g in groups],
            )
            draws, at = [], 0
            for group, own in zip(groups, rows, strict=True):
                n_rows = own.stop - own.start
                beam_size = group.width if group.is_beam else None
                draws.append(self.sampler.draw_next(logits[at : at + n_rows], group.row, beam_size))
                at += n_rows
            for own in rows:
                self._positions[own] = [position + 1 for position in self._positions[own]]
            self.metrics.decoder_steps.inc()
            self.metrics.decoder_batch_size.observe(len(positions))
            return self._commit(groups, draws)

    def detect(self, places: Sequence[tuple[int, int]]) -> list[LanguageProbabilities | None]:
        """Return what language is spoken in windows, each (row, slot): one step for all."""
        if not self.special.languages:
            raise DecodingFailed("the model has no languages to choose from")
        with _translated(), torch.inference_mode():
            tokens = torch.full((len(places),), self.special.sot, device=self.cache.device)
            groups = [RowGroup(row, slot, 1) for row, slot in places]
            logits = self.model.decode(tokens, [0] * len(places), self.cache, groups)
            probabilities = pad_rows(logits)[:, self._languages].softmax(dim=-1)
            found: list[LanguageProbabilities | None] = []
            for (row, slot), own in zip(places, probabilities.tolist(), strict=False):
                if not math.isfinite(own[0]):
                    self._clear(row, 1, slot)
                    found.append(None)
                else:
                    found.append(dict(zip(self.special.languages, own, strict=True)))
            return found

    def align(self, starts: Sequence[AlignStart]) -> list[Alignment | None]:
        """Align texts with their windows, each by a teacher-forced pass of its own."""
        with _translated(), torch.inference_mode():
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
        return last, pad_rows(sot[None]).softmax(dim=-1)[0, self.special.no_speech]

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
            self.cache.move_rows(sources, targets, max(self._positions[_rows(group)]))

    def _clear(self, row: int, n_rows: int, slot: int) -> None:
        for n in range(n_rows):
            self.cache.clear_row(row + n)
        self.cache.clear_window(slot)


def _rows(group: Group) -> slice:
    return slice(group.row, group.row + group.n_windows * group.width)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Turn a lost device into `RunnerDead`: after such an error no CUDA call succeeds."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if isinstance(error, torch.AcceleratorError) or any(sign in text for sign in _LOST):
            raise RunnerDead(text) from error
        raise
