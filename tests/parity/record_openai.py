"""Records what openai-whisper computes for the random checkpoints of `shapes.OPENAI`.

Run it in an environment of its own, from the root of the repository:

    pip install openai-whisper
    python -m tests.parity.record_openai

It writes tests/parity/data/NAME.npz, a few KB each: a digest of the weights, samples of encoder
output and logits, and 200 greedy tokens a row with the margin of each over the runner-up. The
checkpoints themselves are not stored: `recipes` makes the same ones from the same seeds. Knows
nothing about Earshot.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.parity.recipes import (
    MIN_DISTINCT_TOKENS,
    N_STEPS,
    Shape,
    digest,
    openai_dims,
    openai_tensors,
    waveform,
)
from tests.parity.shapes import OPENAI

DATA = Path(__file__).parent / "data"
N_SAMPLED = 200


def prompts(shape: Shape) -> list[list[int]]:
    """Return one prompt a row, all of the same length."""
    return [[(23 * row + 3 * i + 2) % shape.n_vocab for i in range(4)] for row in range(shape.rows)]


def sampled_places(shape: Shape, extents: tuple[int, ...], salt: int) -> tuple[Any, ...]:
    """Return `N_SAMPLED` random places in an array of these extents, as an index."""
    noise = np.random.Generator(np.random.PCG64([shape.seed, salt]))
    return tuple(noise.integers(0, extent, N_SAMPLED) for extent in extents)


def _greedy(model: Any, encoded: torch.Tensor, rows: list[list[int]]) -> tuple[Any, Any]:
    cache, hooks = model.install_kv_cache_hooks()
    tokens = torch.tensor(rows)
    chosen, margins = [], []
    for _ in range(N_STEPS):
        best = model.decoder(tokens, encoded, kv_cache=cache)[:, -1].topk(2)
        tokens = best.indices[:, :1]
        chosen.append(tokens[:, 0])
        margins.append(best.values[:, 0] - best.values[:, 1])
    for hook in hooks:
        hook.remove()
    return torch.stack(chosen, 1), torch.stack(margins, 1)


def record(shape: Shape) -> dict[str, Any]:
    """Return what goes into the file of one checkpoint."""
    whisper = importlib.import_module("whisper")
    tensors = openai_tensors(shape)
    model = whisper.Whisper(whisper.ModelDimensions(**openai_dims(shape))).eval()
    model.load_state_dict({name: torch.from_numpy(array) for name, array in tensors.items()})
    audio = np.stack([waveform(shape.seed, row, shape.n_samples) for row in range(shape.rows)])
    mel = torch.stack([whisper.log_mel_spectrogram(row, shape.n_mels) for row in audio])
    encoded = model.encoder(mel)
    tokens, margins = _greedy(model, encoded, prompts(shape))
    distinct = [len(set(row)) for row in tokens.tolist()]
    if min(distinct) < MIN_DISTINCT_TOKENS:
        raise SystemExit(f"{shape.name}: only {distinct} distinct tokens")
    logits = model.decoder(torch.cat([torch.tensor(prompts(shape)), tokens], dim=1), encoded)
    return {
        "weights_sha256": digest(tensors),
        "encoder_output": encoded.numpy()[sampled_places(shape, tuple(encoded.shape), 1)],
        "logits": logits.numpy()[sampled_places(shape, tuple(logits.shape), 2)],
        "tokens": tokens.numpy().astype(np.int32),
        "margins": margins.numpy(),
    }


def main() -> None:
    """Record every checkpoint."""
    torch.set_num_threads(1)
    DATA.mkdir(exist_ok=True)
    for shape in OPENAI:
        with torch.inference_mode():
            found = record(shape)
        np.savez_compressed(DATA / f"{shape.name}.npz", **found)
        distinct = [len(set(row)) for row in found["tokens"].tolist()]
        print(f"{shape.name}: {distinct} distinct tokens a row")  # noqa: T201


if __name__ == "__main__":
    main()
