"""Trains the built-in model: decoder cross-entropy and, beside it, CTC on the encoder.

Two processes of one thread each, gradients averaged after each step, make better use of two cores
than one process of two threads. The learning rate follows the clock, so that `--minutes` is kept.

torchrun --standalone --nproc-per-node 2 -m training.train --cache CACHE --folder RUN

Started again with the same RUN it resumes from the last checkpoint; a new RUN can begin with the
weights of a released folder (`--init`).
"""

from __future__ import annotations

import datetime as dt
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import torch.distributed as dist
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor
from torch.nn import functional as F

from service.checkpoints import load_checkpoint
from service.model.numerics import multiplies_bfloat16_faster
from training.data import Batch, BatchSource
from training.follow import Follower
from training.material import load_material
from training.muon import Muon, summed
from training.network import AveragedWeights, Trainee, builtin_config
from training.targets import IGNORE, decoder_loss
from training.vocabulary import NO_SPEECH, TIMESTAMP_BEGIN

PHONE_WEIGHT, TAG_WEIGHT = 1.0, 0.4
WEIGHT_DECAY = 0.05
OWN_TIMES = 0.8
"""How often audio without digits follows the timestamp that the model itself would begin with."""
CHECKPOINT_S, REPORT_S = 100, 300
SEED = 1
FRAMES_PER_BATCH = 3600
"""Mel frames of a process and step."""
LONGEST_STEP_S = 5.0
"""What a step counts for at most: a process that was stopped for a while has not been training."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a run is."""

    cache: Path
    folder: Path
    minutes: float
    peak_rate: float
    init: Path | None
    first_step: int
    bfloat16: bool


def learning_rate(options: Options, step: int, elapsed_s: float) -> float:
    """Warm up over 400 steps, hold for 45 % of the time, then fall to nothing along a cosine."""
    progress = min(elapsed_s / (60 * options.minutes), 1.0)
    fall = max(0.0, (progress - 0.45) / 0.55)
    taken = step - options.first_step
    return options.peak_rate * min(1.0, (taken + 1) / 400) * 0.5 * (1 + math.cos(math.pi * fall))


def losses(model: Trainee, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the decoder's loss and the weighted sum of the auxiliary ones, each f32[]."""
    encoder_output = model.whisper.encoder(batch.mel)
    phones, tags = model.named(encoder_output)
    inputs = with_own_times(model, encoder_output, batch)
    logits = model.whisper.decoder(inputs, encoder_output).float()
    said = decoder_loss(logits, batch.labels) if (batch.labels >= 0).any() else logits.sum() * 0
    heard = position_loss(phones, batch.phones), position_loss(tags, batch.tags)
    return said, PHONE_WEIGHT * heard[0] + TAG_WEIGHT * heard[1]


def with_own_times(model: Trainee, encoder_output: Tensor, batch: Batch) -> Tensor:
    """Return the inputs, with the model's own first timestamp where there are no digits.

    That is the one that it is to say nothing after: it stands where a digit might begin, and a
    random one would not. Shapes: encoder_output [b t/2 d_model] -> i64[b s].
    """
    rows, at = (batch.labels == NO_SPEECH).nonzero(as_tuple=True)
    timed = batch.inputs[rows, (at + 1).clamp(max=batch.inputs.shape[1] - 1)] >= TIMESTAMP_BEGIN
    timed &= torch.rand(len(rows)) < OWN_TIMES
    rows, at = rows[timed], at[timed]
    if not len(rows):
        return batch.inputs
    inputs = batch.inputs.clone()
    inputs[rows, at + 1] = model.first_times(encoder_output[rows], inputs[rows], at)
    return inputs


def position_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy at the positions whose label is known.

    Shapes: logits f32[b t classes], labels i64[b t] -> f32[].
    """
    known = (labels != IGNORE).sum().clamp(min=1)
    total = F.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE, reduction="sum"
    )
    return total / known


def optimizers(
    model: Trainee, rate: float, dtype: torch.dtype
) -> tuple[torch.optim.Optimizer, ...]:
    """Return Muon for the matrices inside the layers and AdamW for everything else."""
    inside = [
        parameter
        for name, parameter in model.whisper.named_parameters()
        if parameter.ndim == 2 and "embedding" not in name
    ]
    taken = {id(parameter) for parameter in inside}
    rest = [p for p in model.parameters() if id(p) not in taken]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in rest if p.ndim == 1], "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=True)
    return Muon(inside, lr=rate, weight_decay=WEIGHT_DECAY, dtype=dtype), adam


class Trainer:
    """One rank's model, optimiser and place in the run."""

    def __init__(self, options: Options, rank: int, ranks: int) -> None:
        torch.manual_seed(SEED)
        self.options, self.rank, self.ranks = options, rank, ranks
        self.model = Trainee(builtin_config())
        if options.init is not None:
            self.model.whisper.load_state_dict(dict(load_checkpoint(str(options.init)).state))
        self.average = AveragedWeights(self.model)
        dtype = torch.bfloat16 if options.bfloat16 else torch.float32
        self.optimizers = optimizers(self.model, options.peak_rate, dtype)
        self.step, self.elapsed_s = options.first_step, 0.0
        material = load_material(options.cache, "train")
        self.source = BatchSource(material, SEED, rank, FRAMES_PER_BATCH)

    @property
    def path(self) -> Path:
        """The checkpoint of this run."""
        return self.options.folder / "checkpoint.pt"

    def train_step(self) -> tuple[float, float, float]:
        """Take one step; return both losses and the seconds of audio on this rank."""
        rate = learning_rate(self.options, self.step, self.elapsed_s)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        batch = self.source.batch(self.step)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.options.bfloat16):
            said, heard = losses(self.model, batch)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=False)
        (said + heard).backward()  # type: ignore[no-untyped-call]
        self._share_gradients()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        self.average.update(self.model, self.step)
        return said.item(), heard.item(), batch.seconds

    def _share_gradients(self) -> None:
        if self.ranks == 1:
            return
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        for gradient, total in zip(gradients, summed(gradients), strict=True):
            torch.div(total, self.ranks, out=gradient)

    def save(self) -> None:
        """Write everything that resuming needs, atomically."""
        state = {
            "model": self.model.state_dict(),
            "average": self.average.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "elapsed_s": self.elapsed_s,
        }
        partial = self.path.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(self.path)

    def resume(self) -> None:
        """Continue from the last checkpoint, if there is one."""
        if not self.path.exists():
            return
        state = torch.load(self.path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.model.load_state_dict(state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step, self.elapsed_s = state["step"], state["elapsed_s"]


def fit(trainer: Trainer, console: Console) -> None:
    """Train until the time is up; rank 0 reports, saves and shows progress."""
    follower = Follower(trainer.options.cache) if trainer.rank == 0 else None
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        total_s = 60 * trainer.options.minutes
        task = progress.add_task("training", total=total_s, visible=trainer.rank == 0)
        means, seconds = [0.0, 0.0], 0.0
        reported_s = saved_s = trainer.elapsed_s
        while trainer.elapsed_s < total_s:
            began = time.monotonic()
            said, heard, audio_s = trainer.train_step()
            means = [0.98 * means[0] + 0.02 * said, 0.98 * means[1] + 0.02 * heard]
            seconds += audio_s * trainer.ranks
            taken_s = min(time.monotonic() - began, LONGEST_STEP_S)
            trainer.elapsed_s = _agree(trainer, trainer.elapsed_s + taken_s)
            if follower and trainer.step % 50 == 0:
                now = f"step {trainer.step}, loss {means[0]:.3f}, auxiliary {means[1]:.3f}"
                progress.update(task, completed=trainer.elapsed_s, description=now)
            if follower and trainer.elapsed_s - saved_s > CHECKPOINT_S:
                saved_s = trainer.elapsed_s
                trainer.save()
            if follower and trainer.elapsed_s - reported_s > REPORT_S:
                pace = seconds / (trainer.elapsed_s - reported_s)
                reported_s, seconds = trainer.elapsed_s, 0.0
                figures = follower.report(trainer.average.model)
                console.print(
                    f"{time.strftime('%H:%M:%S')} step {trainer.step} "
                    f"loss {means[0]:.3f} auxiliary {means[1]:.3f} {pace:.0f} s/s  {figures}"
                )
    if follower:
        trainer.save()
        console.print(time.strftime("%H:%M:%S end"), follower.report(trainer.average.model))


def _agree(trainer: Trainer, elapsed_s: float) -> float:
    """Return rank 0's clock, so that all ranks stop at the same step."""
    if trainer.ranks == 1:
        return elapsed_s
    clock = torch.tensor(elapsed_s, dtype=torch.float64)
    dist.broadcast(clock, 0)
    return float(clock)


def main(
    cache: Annotated[Path, typer.Option(help="Folder with prepared audio.")],
    folder: Annotated[Path, typer.Option(help="Folder for checkpoints.")],
    minutes: Annotated[float, typer.Option(help="Training time.")] = 105,
    peak_rate: Annotated[float, typer.Option(help="Highest learning rate.")] = 2e-3,
    init: Annotated[Path | None, typer.Option(help="Begin with a released folder.")] = None,
    first_step: Annotated[int, typer.Option(help="Begin with the lessons of this step.")] = 0,
    bfloat16: Annotated[
        bool | None,
        typer.Option(help="Compute in bfloat16 where that is safe.", show_default="where it pays"),
    ] = None,
) -> None:
    """Train, or go on training."""
    torch.set_num_threads(1)
    rank, ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if ranks > 1:
        dist.init_process_group("gloo", timeout=dt.timedelta(hours=1))
    folder.mkdir(parents=True, exist_ok=True)
    if bfloat16 is None:
        bfloat16 = multiplies_bfloat16_faster()
    options = Options(cache, folder, minutes, peak_rate, init, first_step, bfloat16)
    trainer = Trainer(options, rank, ranks)
    trainer.resume()
    fit(trainer, Console(width=200))


if __name__ == "__main__":
    typer.run(main)
