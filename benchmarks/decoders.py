"""The decoders that are compared: the live batch in this process, peers in processes of their own.

All hold the same weights and the same windows, encoded before anything is measured. Keys and values
of the cross-attention are made of that in the time that is measured, because the peers make them
when they begin to decode. Knows nothing about tables.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from benchmarks.decoding_loads import BEAMS, RETRY, Decoded, Load, in_order
from service.audio.mel import LogMelSpectrogram, Padding
from service.checkpoints import build_model, load_checkpoint
from service.decoding.params import DetectParams, NoiseKey, SequenceParams, SpecialTokens
from service.engine.core import EngineCore
from service.engine.runner import ModelRunner, RunnerConfig
from service.engine.scheduler import Scheduler, SchedulerConfig
from service.engine.types import TokenStep, WindowInput
from service.model import WhisperModel
from service.model.numerics import choose_numerics
from service.model.packed import pack

PEER = Path(__file__).parent / "peers" / "decoding.py"
N_FRAMES = 3000
LATEST_FIRST = 50
"""The latest first timestamp, 1 s: the default of all."""


class Decoder(Protocol):
    """Decodes windows that were encoded before.

    Attributes:
        version: of the library.
    """

    version: str

    def decode(self, load: Load) -> Decoded:
        """Decode every window as the load says."""
        ...


def windows_of(n_windows: int) -> list[WindowInput]:
    """Return windows of 30 s of noise, no two alike."""
    made = []
    for seed in range(n_windows):
        samples = np.random.default_rng(seed).normal(0, 0.1, N_FRAMES * 160 + 400)
        made.append(WindowInput(samples.astype(np.float32), N_FRAMES, 1.0))
    return made


class LiveBatch:
    """Earshot's engine core and runner, without the messages and the event loop around them.

    Args:
        folder: the model in transformers' layout.
        n_windows: decoded at the same time.
        numerics: what is computed in, by the name that the service knows.

    Attributes:
        encoded: f32[n 1500 d_model], what the encoder made of the windows.
        runner: holds the model.
    """

    def __init__(self, folder: Path, n_windows: int, numerics: str = "auto") -> None:
        checkpoint = load_checkpoint(folder)
        model, tokenizer = build_model(checkpoint), checkpoint.tokenizer
        pack(model, choose_numerics(numerics, model.device, model.dtype))
        self.version = f"Earshot with {model.numerics.name} weights"
        self._special = SpecialTokens.of(tokenizer, checkpoint.config.n_vocab)
        self._suppress = tuple(tokenizer.control_tokens)
        self._prompt = tokenizer.sot_sequence("en", "transcribe", timestamps=True)
        n_rows = sum(BEAMS if Load.BEAMS.uses_beams(n) else 1 for n in range(n_windows))
        self.runner = ModelRunner(model, self._special, RunnerConfig(n_windows, n_rows, 1))
        self.runner.warm_up()
        config = SchedulerConfig(
            n_windows, n_rows, tokenizer.eot, checkpoint.config.n_text_ctx, n_windows
        )
        self._core = EngineCore(Scheduler(config), self.runner)
        self._n_windows = n_windows
        windows = windows_of(n_windows)
        for number, window in enumerate(windows):
            self._core.scheduler.open(number, window)
            self._core.scheduler.submit(number, number, DetectParams())
        self._core.step()
        with torch.inference_mode():
            self.encoded = torch.cat([encoded(one, model) for one in windows])

    def decode(self, load: Load) -> Decoded:
        """Decode every window in one live batch; what fails is decoded again beside the others."""
        scheduler = self._core.scheduler
        texts: dict[tuple[str, int], list[int]] = {}
        kinds = ["greedy"] * self._n_windows
        began = time.perf_counter()
        self._write_keys()
        for number in range(self._n_windows):
            scheduler.submit(number, number, self._how(load, number, 0.0))
        while scheduler.has_work:
            for number, step in self._core.step():
                if not isinstance(step, TokenStep) or step.error is not None:
                    raise RuntimeError(f"window {number} could not be decoded: {step.error}")
                texts.setdefault((kinds[number], number), []).append(step.token_id)
                if step.finish is not None and load.fails(number) and kinds[number] == "greedy":
                    kinds[number] = "sampled"
                    scheduler.submit(number, number, self._how(load, number, RETRY))
        seconds = time.perf_counter() - began
        without_end = {
            key: [token for token in text if token != self._special.eot]
            for key, text in texts.items()
        }
        return Decoded(seconds, in_order(without_end))

    def _write_keys(self) -> None:
        """Make the cross-attention's keys and values again, as the peers have to."""
        model = self.runner.model
        with torch.inference_mode():
            for slot, window in enumerate(self._core.scheduler.slots):
                if window is not None:
                    own = self.encoded[window.id : window.id + 1]
                    self.runner.cache.write_cross(slot, model.decoder.cross_kv(own)[0])

    def _how(self, load: Load, window: int, temperature: float) -> SequenceParams:
        return SequenceParams(
            self._prompt,
            0,
            self.runner.model.config.n_text_ctx // 2,
            temperature=temperature,
            noise=NoiseKey(window=window),
            suppress_tokens=self._suppress,
            max_initial_timestamp_index=LATEST_FIRST,
            beam_size=BEAMS if load.uses_beams(window) else None,
        )


def encoded(window: WindowInput, model: WhisperModel) -> torch.Tensor:
    """Return f32[1 1500 d_model], what the encoder makes of a window."""
    inputs = [(window.samples, window.content_frames, window.log_maximum)]
    mel = LogMelSpectrogram(model.config.n_mels).windows(inputs, N_FRAMES, Padding.MEL)
    return model.encode(mel)


class Peer:
    """A peer's process, which waits for loads; see `open_peer`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.version = self._line()

    def decode(self, load: Load) -> Decoded:
        """Let it decode every window as the load says; it measures the time itself."""
        assert self._process.stdin is not None
        print(load.value, file=self._process.stdin, flush=True)
        return Decoded(**json.loads(self._line()))

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the peer has ended; what it said is above")
        return line.strip()


@contextlib.contextmanager
def open_peer(python: Path, folder: Path, name: str) -> Iterator[Peer]:
    """Run a peer on as many threads as torch has here, with the windows in `folder`.

    Raises:
        RuntimeError: if it ends before it is ready.
    """
    threads = torch.get_num_threads()
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
    with subprocess.Popen(
        [str(python), str(PEER), str(folder), name, str(threads)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
    ) as process:  # fmt: skip
        try:
            yield Peer(process)
        finally:
            process.kill()
