"""Holds the model, the cache and the sampler, and does what the engine core orders.

waveform -> mel -> encoder -> cross keys and values in a slot; prompt -> first token; then one token
a row and step. Buffers are allocated once. Each call copies from the device once.

Knows nothing about who asked, in what order, or about threads.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from service.audio.mel import CONTEXT_SAMPLES, HOP_LENGTH, LogMelSpectrogram, Padding
from service.decoding.params import SequenceParams, SpecialTokens
from service.decoding.sampling import REDUCTION_ROWS, Sampler
from service.engine.types import Move, MoveKind, RunnerDead, Sampled, Start, WindowInput
from service.metrics import Metrics
from service.model import KVCache, WhisperModel
from service.model.probe import POSITION_MULTIPLE, ProbeReport, probe

logger = logging.getLogger(__name__)

_LOST = ("CUDA error", "CUBLAS_STATUS_", "CUDNN_STATUS_")
_TRIED_BATCHES = (1, 2, 4, 8)
_WORTH = 0.9
"""A larger encoder batch has to cost less than this share of the smaller one, a window."""


@dataclass(frozen=True, slots=True)
class RunnerConfig:
    """How much the runner holds.

    Attributes:
        windows: cross slots.
        rows: decoder rows, at most `windows`.
        encode_batch: windows that are encoded together; 0 measures what pays at `warm_up`.
        padding: how a window is filled up.
        probe: whether `warm_up` proves batch invariance on this device first.
    """

    windows: int
    rows: int
    encode_batch: int = 0
    padding: Padding = Padding.MEL
    probe: bool = True


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
        self.encode_batch = config.encode_batch or 1
        device, n_rows = model.device, config.rows
        self.cache = KVCache(model.config, config.windows, n_rows, device=device, dtype=model.dtype)
        self.sampler = Sampler(special, n_rows, device)
        self._mel = LogMelSpectrogram(model.config.n_mels, device)
        self._last = torch.zeros(n_rows, dtype=torch.int64, device=device)
        self._positions = [0] * n_rows
        self.metrics.kv_cache_bytes.set(self.cache.nbytes)

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
                self.encode_batch = self._measured_encode_batch()
            if self.config.probe:
                report = self.probe()
                self.encode_batch = report.encode_batch
                report.log(logger)
            silence = np.zeros(HOP_LENGTH * 100 + 2 * CONTEXT_SAMPLES, dtype=np.float32)
            params = SequenceParams((self.special.sot,), sot_index=0, max_tokens=2)
            self.encode([(0, WindowInput(silence, 100))])
            self.prefill([Start(0, params)])
            self.decode(0, 1)

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
                    self.cache.move_row(source, target, self._positions[source])
                    self.sampler.move(source, target)
                    self._last[target] = self._last[source]
                    self._positions[target] = self._positions[source]

    def encode(self, windows: Sequence[tuple[int, WindowInput]]) -> None:
        """Encode windows into their cross slots; those of one length go together."""
        groups: dict[int, list[tuple[int, WindowInput]]] = {}
        for slot, window in windows:
            n_frames = self.model.config.window_frames(window.content_frames)
            groups.setdefault(n_frames, []).append((slot, window))
        with _translated(), torch.inference_mode():
            for n_frames, group in groups.items():
                self._encode_group(group, n_frames)

    def prefill(self, starts: Sequence[Start]) -> list[Sampled]:
        """Decode each prompt on its row, alone, and draw the first tokens."""
        first = starts[0].row
        with _translated(), torch.inference_mode():
            logits, no_speech = zip(*(self._prompt(start) for start in starts), strict=True)
            draw = self.sampler.draw_first(
                torch.stack(logits), first, [start.params for start in starts]
            )
            self._last[first : first + len(starts)] = draw.tokens
            packed = torch.cat([draw.packed, torch.stack(no_speech)[:, None].double()], dim=1)
            for start in starts:
                self._positions[start.row] = len(start.params.prompt)
            return self._unpack(packed, first)

    def decode(self, first: int, n_rows: int) -> list[Sampled]:
        """Take one step on rows `[first, first + n_rows)`."""
        rows = slice(first, first + n_rows)
        with _translated(), torch.inference_mode():
            logits = self.model.decode(
                self._last[rows], self._positions[rows], self.cache, first=first
            )
            draw = self.sampler.draw_next(logits, first)
            self._last[rows] = draw.tokens
            self._positions[rows] = [position + 1 for position in self._positions[rows]]
            self.metrics.decoder_steps.inc()
            self.metrics.decoder_batch_size.observe(n_rows)
            return self._unpack(draw.packed, first)

    def _prompt(self, start: Start) -> tuple[Tensor, Tensor]:
        """Decode a prompt -> logits f32[n_vocab] after it, and the no-speech probability f32[]."""
        params = start.params
        self.sampler.start(start.row, params)
        at = (params.sot_index, len(params.prompt) - 1)
        sot, last = self.model.prefill(list(params.prompt), self.cache, start.row, logits_at=at)
        if self.special.no_speech is None:
            return last, sot.new_full((), float("nan"))
        padded = pad(sot[None], (0, 0, 0, REDUCTION_ROWS - 1))
        return last, padded.softmax(dim=-1)[0, self.special.no_speech]

    def _unpack(self, packed: Tensor, first: int) -> list[Sampled]:
        """Copy what was drawn from the device, f64[b 3 or 4], and scrub the rows that failed.

        What a failed row wrote may be NaN, which would reach the next owner of its place through
        masked keys: 0 times NaN is NaN.
        """
        sampled = []
        for row, (token, logprob, failed, *no_speech) in enumerate(packed.tolist(), first):
            if failed:
                self.cache.clear_row(row)
                self.cache.clear_window(row)
            known = no_speech and self.special.no_speech is not None
            no_speech_prob = no_speech[0] if known else None
            sampled.append(Sampled(int(token), logprob, bool(failed), no_speech_prob))
        return sampled

    def _encode_group(self, group: list[tuple[int, WindowInput]], n_frames: int) -> None:
        """Encode windows of one length, in batches that fit."""
        together = self.encode_batch if n_frames // 2 % POSITION_MULTIPLE == 0 else 1
        while group:
            batch, group = group[:together], group[together:]
            try:
                self._encode_batch(batch, n_frames)
            except RuntimeError as error:
                if len(batch) == 1 or not _is_out_of_memory(error):
                    raise
                together = self.encode_batch = len(batch) // 2
                logger.warning("encoder batch lowered to %d: out of memory", together)
                group = batch + group

    def _encode_batch(self, batch: list[tuple[int, WindowInput]], n_frames: int) -> None:
        inputs = [(w.samples, w.content_frames, w.log_maximum) for _, w in batch]
        mel = self._mel.windows(inputs, n_frames, self.config.padding)
        cross_kv = self.model.decoder.cross_kv(self.model.encode(mel))
        for (slot, _), key_value in zip(batch, cross_kv, strict=True):
            self.cache.write_cross(slot, key_value)
        self.metrics.encoder_batches.inc()
        self.metrics.encoder_windows.inc(len(batch))
        self.metrics.encoder_batch_size.observe(len(batch))

    def _measured_encode_batch(self) -> int:
        """Return the encoder batch after which a larger one no longer pays."""
        config = self.model.config
        best, best_s = 1, float("inf")
        if config.n_audio_ctx % POSITION_MULTIPLE:
            return best
        for n_windows in _TRIED_BATCHES:
            if n_windows > self.config.rows:
                break
            mel = torch.zeros(n_windows, config.n_mels, config.max_frames, device=self.cache.device)
            try:
                self.model.encode(mel)
                began = time.perf_counter()
                self.model.encode(mel).sum().item()
                window_s = (time.perf_counter() - began) / n_windows
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
                break
            if window_s > _WORTH * best_s:
                break
            best, best_s = n_windows, window_s
        logger.info("encode_batch %d: %.1f ms a window", best, 1000 * best_s)
        return best


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device, or the CPU's allocator, ran out of memory."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


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
