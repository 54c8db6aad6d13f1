"""Our side of the parity tests: a random checkpoint, written as OpenAI does, read as users do."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import torch

from service.audio.log_maximum import LogMaximum
from service.checkpoints import build_model, load_checkpoint
from service.checkpoints.checkpoint import Checkpoint
from service.decoding.params import SpecialTokens
from service.engine.core import EngineCore
from service.engine.engine import Engine, EngineConfig
from service.engine.hosts import ThreadHost
from service.engine.runner import ModelRunner, RunnerConfig
from service.engine.scheduler import Scheduler, SchedulerConfig
from service.loading import facts_of
from service.text.tokenizer import WhisperTokenizer
from service.transcription.events import Done, TokenEvent
from service.transcription.params import ModelFacts, TranscriptionParams, Vad
from service.transcription.transcriber import Transcriber
from tests.parity import longform
from tests.parity.recipes import Array, Shape, openai_dims, waveform
from tests.parity.tokens import write_vocabulary

Job: TypeAlias = tuple[Array, TranscriptionParams]
_Server: TypeAlias = tuple[Transcriber, Engine]
WINDOWS, ROWS = 24, 48
_OTHERS_S = 40
_DEADLINE_S = 300.0
_OTHER = TranscriptionParams(logprob_threshold=0.0, no_speech_threshold=None, vad=Vad.OFF)
"""No window is good enough: each is decoded at every temperature, so that encoding it is rare."""
_OTHERS = (
    _OTHER,
    replace(_OTHER, beam_size=3),
    replace(_OTHER, best_of=2, seed=9),
    replace(_OTHER, word_timestamps=True),
    replace(_OTHER, without_timestamps=True, seed=4),
)


def write_checkpoint(
    folder: Path,
    shape: Shape,
    tensors: Mapping[str, Array],
    text: Sequence[bytes],
    special: Sequence[str],
) -> Checkpoint:
    """Write `model.pt` and its `tokenizer.json` into a folder, and load them."""
    state = {name: torch.from_numpy(array) for name, array in tensors.items()}
    path = folder / "model.pt"
    torch.save({"dims": openai_dims(shape), "model_state_dict": state}, path)
    return load_checkpoint(path, tokenizer=str(write_vocabulary(folder, text, special)))


def runner_of(checkpoint: Checkpoint, config: RunnerConfig) -> ModelRunner:
    """Return what runs the checkpoint, once the start-up probe has let it pass.

    A model whose rows depend on their neighbours on this machine's kernels - heads of 11 or 12
    values are such a case - could not show that neighbours change nothing.
    """
    special = SpecialTokens.of(checkpoint.tokenizer, checkpoint.config.n_vocab)
    runner = ModelRunner(build_model(checkpoint), special, replace(config, probe=True))
    assert runner.settle(), "choose another width of heads; the log says what differs"
    return runner


@dataclass(frozen=True)
class Served:
    """A checkpoint behind the real engine."""

    shape: Shape
    runner: ModelRunner
    facts: ModelFacts
    tokenizer: WhisperTokenizer

    def transcriber(self) -> Transcriber:
        """Return what opens transcriptions, for one event loop."""
        return Transcriber(self.facts, self.tokenizer, LogMaximum(80))


@dataclass(frozen=True)
class Heard:
    """What a transcription came to, and the tokens of every decoding on the way, retracted too."""

    decodings: list[list[int]]
    done: Done


def serve(checkpoint: longform.Checkpoint, folder: Path) -> Served:
    """Return a checkpoint of the long form, its files in `folder`."""
    tensors, text = longform.tensors(checkpoint), longform.texts()
    loaded = write_checkpoint(folder, checkpoint.shape, tensors, text, checkpoint.special)
    facts = facts_of(loaded, ROWS)
    never = (*facts.suppress_tokens, *longform.suppressed())
    facts = replace(facts, suppress_tokens=never)
    heads = loaded.generation.alignment_heads
    config = RunnerConfig(WINDOWS, ROWS, encode_batch=1, alignment_heads=heads)
    return Served(checkpoint.shape, runner_of(loaded, config), facts, loaded.tokenizer)


def transcribe(model: Served, jobs: Sequence[Job], n_others: int = 0) -> list[Heard]:
    """Transcribe all jobs at the same time, beside others that go on for as long."""

    async def scenario() -> list[Heard]:
        eot, n_text_ctx = model.tokenizer.eot, model.facts.n_text_ctx
        scheduler = Scheduler(SchedulerConfig(WINDOWS, ROWS, eot, n_text_ctx))
        config = EngineConfig(len(jobs) + n_others)
        engine = Engine(ThreadHost(EngineCore(scheduler, model.runner)), config=config)
        engine.start()
        await engine.until_ready()
        server = (model.transcriber(), engine)
        begun = [asyncio.Event() for _ in range(n_others)]
        others = [
            asyncio.create_task(
                _again_and_again(
                    server, model.shape.seed + number, _OTHERS[number % len(_OTHERS)], event
                )
            )
            for number, event in enumerate(begun)
        ]
        try:
            async with asyncio.timeout(_DEADLINE_S):
                await asyncio.gather(*(event.wait() for event in begun))
            return list(await asyncio.gather(*(_listen(server, job) for job in jobs)))
        finally:
            for other in others:
                other.cancel()
            ends = await asyncio.gather(*others, return_exceptions=True)
            await engine.stop(0.0)
            assert all(isinstance(end, asyncio.CancelledError) for end in ends), ends

    return asyncio.run(scenario())


async def _listen(server: _Server, job: Job, begun: asyncio.Event | None = None) -> Heard:
    (transcriber, engine), (audio, params) = server, job
    opened = transcriber.open(audio, params, engine.session(), request_id="r")
    decodings: dict[tuple[int, int], list[int]] = {}
    try:
        async with aclosing(opened.events()) as events:
            async for event in events:
                if isinstance(event, TokenEvent):
                    if begun is not None:
                        begun.set()
                    place = (event.window, event.attempt)
                    decodings.setdefault(place, []).append(event.token_id)
                elif isinstance(event, Done):
                    return Heard(list(decodings.values()), event)
    finally:
        opened.close()
    raise AssertionError("a transcription ends with Done or an error")


async def _again_and_again(
    server: _Server, seed: int, params: TranscriptionParams, begun: asyncio.Event
) -> None:
    audio = waveform(seed, 1, _OTHERS_S * longform.SECOND)
    while True:
        await _listen(server, (audio, params), begun)
