"""How far quantised `.apr` files are from the model that they were made of: logits, tokens, words.

python -m benchmarks.quantized --model service/builtin --root DATA samples/*.wav

Each recording is encoded as one window. The tokens are those that the original takes greedily; the
others' logits are compared on these, so one early difference does not count again. With `--root`,
where the corpora of `training/` lie, the words of each file are compared with what people said, the
clips of the model's test part in which only digits are said. `--keep FOLDER` keeps the files.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from service.audio.log_maximum import LogMaximum
from service.audio.mel import LogMelSpectrogram, Padding
from service.audio.wav import parse, read_samples
from service.audio.windows import extract, total_frames
from service.checkpoints import Checkpoint, build_model, load_checkpoint
from service.checkpoints.convert import Target, convert
from service.in_process import load_serving
from service.metrics import Metrics
from service.model import WhisperModel
from service.settings import Settings
from service.transcription.params import TranscriptionParams
from training.evaluate import answer, score_words
from training.examination import Question, digit_questions, test_clips

KINDS = {
    "as they are": (Target.APR_V2, None),
    "f16": (Target.APR_V2, "f16"),
    "q8": (Target.APR_V2, "q8"),
    "q4": (Target.APR_V2, "q4"),
    "layout 1 int8": (Target.APR_V1, "int8"),
}
MAX_TOKENS = 60


def window_mel(path: Path, checkpoint: Checkpoint) -> Tensor:
    """Return the log-mel of the first window of a 16 kHz recording, f32[1 n_mels t]."""
    data, config = path.read_bytes(), checkpoint.config
    samples = read_samples(data, parse(data))
    mel = LogMelSpectrogram(config.n_mels)
    frames = min(total_frames(len(samples)), config.max_frames)
    window = (extract(samples, 0, frames), frames, LogMaximum(mel.n_mels)(samples))
    return mel.windows([window], config.window_frames(frames), Padding.MEL)


def greedy(model: WhisperModel, mel: Tensor, prompt: list[int], eot: int) -> list[int]:
    """Return the likeliest tokens one after the other, without any rule."""
    encoded, tokens = model.encode(mel), list(prompt)
    for _ in range(MAX_TOKENS):
        best = int(model.decoder(torch.tensor([tokens]), encoded)[0, -1].argmax())
        tokens.append(best)
        if best == eot:
            break
    return tokens


def compare(
    path: Path, inputs: list[tuple[Tensor, list[int], Tensor]], n_prompt: int
) -> tuple[float, float, float]:
    """Return the largest and the root mean square logit error, and the share of equal tokens."""
    model = build_model(load_checkpoint(path))
    largest, squares, equal, count, n_logits = 0.0, 0.0, 0, 0, 0
    for mel, tokens, expected in inputs:
        found = model(mel, torch.tensor([tokens]))
        difference = (found - expected)[:, n_prompt - 1 : -1]
        largest = max(largest, difference.abs().max().item())
        squares += difference.square().sum().item()
        n_logits += difference.numel()
        chosen = found[:, n_prompt - 1 : -1].argmax(-1)
        equal += int((chosen == torch.tensor(tokens[n_prompt:])).sum())
        count += len(tokens) - n_prompt
    return largest, (squares / n_logits) ** 0.5, equal / count


async def word_error_rate(path: Path, questions: list[Question]) -> float:
    """Return the word error rate of a model file, through the service's own transcription."""
    serving = await load_serving(Settings(model=str(path), encode_batch=1), str(path), Metrics())
    try:
        texts = await answer(serving, questions, TranscriptionParams(language="en"))
    finally:
        await serving.engine.stop(0.0)
    return float(score_words(questions, texts)["all"]["wer"])


def asked(root: Path, clips: int | None) -> list[Question]:
    """Return clips of digits, evenly chosen from all where there are to be fewer."""
    questions = digit_questions(root, test_clips(root))
    step = 1 if clips is None else max(len(questions) // clips, 1)
    return questions[::step][:clips]


def main(
    recordings: Annotated[list[Path], typer.Argument(help="WAV files, 16 kHz mono.")],
    model: Annotated[str, typer.Option(help="A folder, a file or a hub id.")] = "service/builtin",
    keep: Annotated[Path | None, typer.Option(help="Folder for the converted files.")] = None,
    root: Annotated[Path | None, typer.Option(help="Folder with the corpora.")] = None,
    clips: Annotated[int | None, typer.Option(min=1, help="Of the corpora; all of them.")] = None,
) -> None:
    """Print a table: size, logit error, equal tokens, word errors for each way to store weights."""
    checkpoint = load_checkpoint(model)
    tokenizer, original = checkpoint.tokenizer, build_model(checkpoint)
    language = "en" if tokenizer.is_multilingual else None
    prompt = list(tokenizer.sot_sequence(language, "transcribe", timestamps=False))
    inputs = []
    for path in track(recordings, "decoding", console=Console(stderr=True)):
        mel = window_mel(path, checkpoint)
        tokens = greedy(original, mel, prompt, tokenizer.eot)
        inputs.append((mel, tokens, original(mel, torch.tensor([tokens]))))
    table = Table("weights", title=f"{checkpoint.name}, {len(recordings)} recordings")
    questions = [] if root is None else asked(root, clips)
    headings = ["file, MB", "largest logit error", "rms logit error", "equal tokens"]
    for heading in headings + [f"word error rate, {len(questions)} clips"] * bool(questions):
        table.add_column(heading, justify="right")
    with contextlib.ExitStack() as stack:
        folder = keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(exist_ok=True)
        for kind, (target, quantize) in KINDS.items():
            path = folder / f"{kind.replace(' ', '-')}.apr"
            convert(checkpoint, path, target, quantize=quantize, overwrite=True)
            largest, rms, equal = compare(path, inputs, len(prompt))
            size = f"{path.stat().st_size / 1e6:.2f}"
            cells = [kind, size, f"{largest:.4f}", f"{rms:.4f}", f"{equal:.1%}"]
            if questions:
                cells.append(f"{asyncio.run(word_error_rate(path, questions)):.1%}")
            table.add_row(*cells)
    Console(width=100).print(table)


if __name__ == "__main__":
    typer.run(main)
