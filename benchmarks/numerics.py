"""How far each of `EARSHOT_NUMERICS` is from plain float32: logits, tokens, words.

python -m benchmarks.numerics --root DATA
python -m benchmarks.numerics --random tiny

The first asks the built-in model for the digits of its development speakers, in the corpora of
`training/`. Tokens are those that plain float32 takes greedily, and the others' logits are compared
on these, so that one early difference does not count again; words come from the service's own
transcription. Intervals are 95 % of a bootstrap over clips, of the difference over pairs of clips.

A model of digits chooses among few words, so it cannot show what these numerics do to a vocabulary
of 51,865. `--random` has that many, over noise, but says the same again and again, with a wide
margin; its logit errors say more than its tokens. Neither stands for the word error rate of a
released Whisper.
"""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import jiwer
import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.random_model import SIZES, write_random_model
from service.audio.log_maximum import LogMaximum
from service.audio.mel import LogMelSpectrogram, Padding
from service.audio.windows import extract, total_frames
from service.checkpoints import Checkpoint, build_model, load_checkpoint
from service.in_process import load_serving
from service.metrics import Metrics
from service.model import RowGroup, WhisperModel
from service.model.numerics import NUMERICS, choose_numerics
from service.model.packed import pack
from service.settings import Settings
from service.transcription.params import TranscriptionParams, Vad
from training.corpora import normalise, read_manifest
from training.evaluate import answer
from training.examination import Question, digit_questions, in_noise
from training.split import load_split

MAX_TOKENS = 100
RESAMPLES = 10_000
PLACE = RowGroup(0, 0, 1)
Interval = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Compared:
    """One model beside plain float32, on the same tokens.

    Attributes:
        rms: root mean square error of the logits, as a share of their own.
        largest: error of one logit.
        equal: share of positions with the same likeliest token.
        n_tokens: positions.
    """

    rms: float
    largest: float
    equal: float
    n_tokens: int


def development_questions(root: Path) -> list[Question]:
    """Return the digits of development speakers, as they are and in noise at 10 dB."""
    split, corpora = load_split(), ("fsdd", "speechocean762", "noise_esc10")
    clips = [clip for corpus in corpora for clip in read_manifest(root, corpus)]
    clips = [clip for clip in clips if split.part(clip) == "dev"]
    questions = digit_questions(root, clips)
    return questions + in_noise(root, questions, clips)


def mel_of(samples: NDArray[np.float32], checkpoint: Checkpoint) -> Tensor:
    """Return the log-mel of the first window of a recording, f32[1 n_mels t]."""
    config, mel = checkpoint.config, LogMelSpectrogram(checkpoint.config.n_mels)
    frames = min(total_frames(len(samples)), config.max_frames)
    window = (extract(samples, 0, frames), frames, LogMaximum(mel.n_mels)(samples))
    return mel.windows([window], config.window_frames(frames), Padding.MEL)


def logits(model: WhisperModel, mel: Tensor, tokens: list[int], n_prompt: int) -> Tensor:
    """Return what the decoder says after the prompt and after each later token but the last."""
    cache = model.new_cache(1, 1)
    cache.write_cross(0, model.decoder.cross_kv(model.encode(mel))[0])
    at = range(n_prompt - 1, len(tokens) - 1)
    return model.prefill(tokens, cache, PLACE, logits_at=at)


def greedy(model: WhisperModel, mel: Tensor, prompt: list[int], eot: int) -> list[int]:
    """Return a prompt and the likeliest tokens after it, without any rule."""
    cache, tokens = model.new_cache(1, 1), list(prompt)
    cache.write_cross(0, model.decoder.cross_kv(model.encode(mel))[0])
    best = int(model.prefill(prompt, cache, PLACE, logits_at=[len(prompt) - 1]).argmax())
    while True:
        tokens.append(best)
        if best == eot or len(tokens) == len(prompt) + MAX_TOKENS:
            return tokens
        best = int(model.decode(torch.tensor([best]), [len(tokens) - 1], cache).argmax())


def compare(
    model: WhisperModel, inputs: list[tuple[Tensor, list[int], Tensor]], n_prompt: int
) -> Compared:
    """Return how far a model is from the expected logits on each input's tokens."""
    largest, squares, own, equal, count = 0.0, 0.0, 0.0, 0, 0
    for mel, tokens, expected in inputs:
        difference = logits(model, mel, tokens, n_prompt) - expected
        largest = max(largest, difference.abs().max().item())
        squares += difference.square().sum().item()
        own += (expected - expected.mean(-1, keepdim=True)).square().sum().item()
        equal += int(((difference + expected).argmax(-1) == expected.argmax(-1)).sum())
        count += len(expected)
    return Compared((squares / own) ** 0.5, largest, equal / count, count)


async def errors_of(source: str, numerics: str, questions: list[Question]) -> NDArray[np.int64]:
    """Return word errors of each clip, through the service's own transcription."""
    settings = Settings(model=source, numerics=numerics, encode_batch=1)  # type: ignore[arg-type]
    serving = await load_serving(settings, source, Metrics())
    try:
        params = TranscriptionParams(language="en", vad=Vad.OFF)
        texts = await answer(serving, questions, params)
    finally:
        await serving.engine.stop(0.0)
    found = [
        jiwer.process_words(q.text, normalise(t)) for q, t in zip(questions, texts, strict=True)
    ]
    return np.array([f.substitutions + f.deletions + f.insertions for f in found])


def bootstrap(errors: NDArray[np.int64], words: NDArray[np.int64]) -> Interval:
    """Return a rate of errors and the 95 % interval of it, clips drawn with replacement."""
    drawn = np.random.default_rng(0).integers(len(errors), size=(RESAMPLES, len(errors)))
    rates = errors[drawn].sum(1) / words[drawn].sum(1)
    low, high = np.quantile(rates, [0.025, 0.975])
    return float(errors.sum() / words.sum()), float(low), float(high)


def available() -> list[str]:
    """Return the numerics that this machine has."""
    names = []
    for name in NUMERICS:
        try:
            choose_numerics(name, torch.device("cpu"), torch.float32)
        except ValueError as error:
            typer.echo(str(error), err=True)
        else:
            names.append(name)
    return names


def inputs_of(
    checkpoint: Checkpoint, recordings: list[NDArray[np.float32]]
) -> tuple[list[tuple[Tensor, list[int], Tensor]], int]:
    """Return mel, tokens and plain float32's logits of each recording, and the prompt's length."""
    tokenizer, model = checkpoint.tokenizer, build_model(checkpoint)
    language = "en" if tokenizer.is_multilingual else None
    prompt = list(tokenizer.sot_sequence(language, "transcribe", timestamps=False))
    inputs = []
    for samples in recordings:
        mel = mel_of(samples, checkpoint)
        tokens = greedy(model, mel, prompt, tokenizer.eot)
        inputs.append((mel, tokens, logits(model, mel, tokens, len(prompt))))
    return inputs, len(prompt)


def noise(count: int) -> list[NDArray[np.float32]]:
    """Return windows of 30 s of coloured noise, each of another colour and level."""
    rng, made = np.random.default_rng(0), list[NDArray[np.float32]]()
    for number in range(count):
        white = rng.standard_normal(480_000 + number + 1).astype(np.float32)
        coloured = np.convolve(white, np.ones(number + 2, np.float32) / (number + 2), "valid")
        made.append((coloured[:480_000] * rng.uniform(0.02, 0.3)).astype(np.float32))
    return made


def report(source: str, questions: list[Question], recordings: list[NDArray[np.float32]]) -> Table:
    """Return the table of one model."""
    checkpoint = load_checkpoint(source)
    inputs, n_prompt = inputs_of(checkpoint, recordings)
    table = Table("numerics", title=f"{checkpoint.name}, {len(inputs)} windows")
    words = np.array([len(question.text.split()) for question in questions])
    columns = ["rms logit error", "largest", "equal tokens", "of"]
    columns += ["word error rate", "difference to plain"] * bool(questions)
    for heading in columns:
        table.add_column(heading, justify="right")
    plain: NDArray[np.int64] | None = None
    for name in available():
        model = build_model(checkpoint)
        pack(model, NUMERICS[name])
        found = compare(model, inputs, n_prompt)
        cells = [f"{found.rms:.2%}", f"{found.largest:.4f}", f"{found.equal:.2%}"]
        cells.append(f"{found.n_tokens:,}")
        if questions:
            errors = asyncio.run(errors_of(source, name, questions))
            plain = errors if plain is None else plain
            for rate, low, high in (bootstrap(errors, words), bootstrap(errors - plain, words)):
                cells.append(f"{100 * rate:.2f} % [{100 * low:.2f}, {100 * high:.2f}]")
        table.add_row(name, *cells)
    return table


def main(
    model: Annotated[str, typer.Option(help="A folder, a file or a hub id.")] = "service/builtin",
    root: Annotated[Path | None, typer.Option(help="Folder with the corpora.")] = None,
    random: Annotated[
        Literal["tiny", "base"] | None, typer.Option(help="Random weights over noise instead.")
    ] = None,
    clips: Annotated[int | None, typer.Option(min=1, help="Of the corpora; all of them.")] = None,
) -> None:
    """Print a table: logit error, equal tokens and word errors of each way to compute."""
    if (root is None) == (random is None):
        raise typer.BadParameter("give --root or --random")
    with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
        if root is not None:
            questions = development_questions(root)
            questions = questions[:: max(len(questions) // (clips or len(questions)), 1)][:clips]
            table = report(model, questions, [question.samples for question in questions])
        else:
            write_random_model(Path(folder), SIZES[str(random)])
            table = report(folder, [], noise(clips or 10))
    Console(width=120).print(table)


if __name__ == "__main__":
    typer.run(main)
