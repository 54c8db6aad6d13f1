"""What `EARSHOT_AUDIO_CONTEXT_S` saves and what it costs: seconds and word errors of short clips.

python -m benchmarks.audio_context --model openai/whisper-tiny --manifest CLIPS.jsonl

Each line of the manifest is an object with `audio`, a path beside the manifest, and `text`. Every
context transcribes all clips through the service's own transcription, in turn, clip by clip, so
that what else the machine does meets all of them. Intervals are 95 % of a bootstrap over clips.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import jiwer
import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.numerics import bootstrap
from service.api.deps import Serving
from service.build import build_decoder
from service.in_process import load_serving
from service.metrics import Metrics
from service.settings import Settings
from service.transcription.params import TranscriptionParams, Vad

WORDS = jiwer.Compose(
    [
        jiwer.ToLowerCase(),
        jiwer.RemovePunctuation(),
        jiwer.RemoveMultipleSpaces(),
        jiwer.Strip(),
        jiwer.ReduceToListOfListOfWords(),
    ]
)
"""Capitals and punctuation do not count."""


@dataclass(frozen=True, slots=True)
class Spoken:
    """One clip: f32[samples] at 16 kHz, and what is said."""

    samples: NDArray[np.float32]
    text: str


@dataclass(slots=True)
class Context:
    """One setting, and what came of each clip with it.

    Attributes:
        seconds: the shortest window.
        errors: of words.
        took_s: from samples to text.
    """

    seconds: float
    errors: list[int] = field(default_factory=list)
    took_s: list[float] = field(default_factory=list)


def read_clips(manifest: Path) -> list[Spoken]:
    """Decode every clip of a manifest as the service decodes uploads."""
    lines = manifest.read_text(encoding="utf-8").splitlines()
    named = [json.loads(line) for line in lines]
    files = [(manifest.parent / clip["audio"]).read_bytes() for clip in named]

    async def decode() -> list[NDArray[np.float32]]:
        decoder = build_decoder(Settings())
        await decoder.start()
        try:
            return [await decoder.decode(file) for file in files]
        finally:
            await decoder.close()

    decoded = asyncio.run(decode())
    return [Spoken(samples, clip["text"]) for samples, clip in zip(decoded, named, strict=True)]


async def ask(serving: Serving, clip: Spoken, params: TranscriptionParams) -> str:
    """Return the text of one clip."""
    session = serving.engine.session()
    transcription = serving.transcriber.open(clip.samples, params, session, request_id="context")
    try:
        return (await transcription.result()).text
    finally:
        transcription.close()


def errors_in(text: str, found: str) -> int:
    """Return how many words are wrong, missing or too many."""
    words = jiwer.process_words(text, found, WORDS, WORDS)
    return int(words.substitutions + words.deletions + words.insertions)


async def measure(model: str, clips: list[Spoken], seconds: list[float]) -> list[Context]:
    """Transcribe all clips in each context, clip by clip."""
    params = TranscriptionParams(vad=Vad.OFF)
    contexts = [Context(each) for each in seconds]
    async with AsyncExitStack() as stack:
        servings = []
        for context in contexts:
            settings = Settings(model=model, audio_context_s=context.seconds, window_slots=1)
            servings.append(await load_serving(settings, model, Metrics()))
            stack.push_async_callback(servings[-1].engine.stop, 0.0)
        for clip in track(clips, "transcribing"):
            for context, serving in zip(contexts, servings, strict=True):
                began = time.perf_counter()
                found = await ask(serving, clip, params)
                context.took_s.append(time.perf_counter() - began)
                context.errors.append(errors_in(clip.text, found))
    return contexts


def table_of(contexts: list[Context], clips: list[Spoken]) -> Table:
    """Return errors and time of each context, beside those of the longest."""
    words = np.array([len(WORDS(clip.text)[0]) for clip in clips])
    full = max(contexts, key=lambda context: context.seconds)
    table = Table("shortest window, s", title=f"{len(clips)} clips, {words.sum()} words")
    for heading in ("word error rate", "difference", "median s a clip", "times as fast"):
        table.add_column(heading, justify="right")
    for context in contexts:
        errors, base = np.array(context.errors), np.array(full.errors)
        took_s, full_s = np.median(context.took_s), np.median(full.took_s)
        rates = [bootstrap(errors, words), bootstrap(errors - base, words)]
        cells = [f"{100 * r:.2f} % [{100 * low:.2f}, {100 * high:.2f}]" for r, low, high in rates]
        table.add_row(f"{context.seconds:g}", *cells, f"{took_s:.3f}", f"{full_s / took_s:.2f}")
    return table


def main(
    model: Annotated[str, typer.Option(help="A folder, a file or a hub id.")],
    manifest: Annotated[Path, typer.Option(exists=True, help="JSON lines: audio and text.")],
    seconds: Annotated[list[float], typer.Option(help="Of the shortest window; may be repeated.")],
) -> None:
    """Print a table: word errors and time with each shortest window, beside windows of 30 s."""
    clips = read_clips(manifest)
    contexts = asyncio.run(measure(model, clips, sorted({30.0, *seconds}, reverse=True)))
    Console(width=120).print(table_of(contexts, clips))


if __name__ == "__main__":
    typer.run(main)
