"""Makes at start what a CPU's libraries would make, and keep, for each shape that requests bring.

oneDNN compiles a kernel for each length that is convolved, or attended to in bfloat16, and for each
number of rows that a packed matrix is multiplied with. Made when they are first wanted, they are
memory that grows for hours with the requests served, and a wait for whoever is first. They belong
to the thread that they are made in. Knows nothing about requests.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch

from service.model.attention import SelfAttention
from service.model.config import FRAMES_PER_POSITION
from service.model.int8 import Int8Linear
from service.model.packed import PackedLinear, reads_windows
from service.model.whisper import WhisperModel


def make_kernels(model: WhisperModel, n_windows: int, n_rows: int, n_texts: int) -> None:
    """Run convolutions and packed linears once in every shape that they can have.

    The encoder's attention in bfloat16 is run for one window of each length. On a GPU there is
    nothing to make. The LM head is spared the lengths of texts that are aligned: its results are
    the largest there are.

    Args:
        model: as it is served.
        n_windows: that are encoded together, at most.
        n_rows: that decode together, at most.
        n_texts: that are read together, at most.
    """
    if model.device.type != "cpu":
        return
    config, decoder = model.config, model.decoder
    lengths = {config.window_frames(n_frames) for n_frames in range(1, config.max_frames + 1)}
    for n_frames in lengths:
        mel = torch.zeros(1, config.n_mels, n_frames, dtype=model.dtype)
        convolved = model.encoder.convolve(mel)
        if model.numerics.encoder == torch.bfloat16:
            cast("SelfAttention", model.encoder.get_submodule("blocks.0.attn"))(convolved)
    positions = [n_frames // FRAMES_PER_POSITION for n_frames in lengths]
    of_windows = {n * length for n in range(1, n_windows + 1) for length in positions}
    multiple = decoder.row_multiple
    most = max(n_rows, n_texts * config.n_text_ctx)
    of_texts = range(multiple, most + multiple, multiple)
    made: set[tuple[tuple[int, ...], bool]] = set()
    for name, linear in model.named_modules():
        if not isinstance(linear, PackedLinear | Int8Linear) or linear is decoder.packed_head:
            continue
        if (kind := (linear.shape, reads_windows(name))) not in made:
            made.add(kind)
            _run(linear, of_windows if reads_windows(name) else of_texts)
    if isinstance(decoder.packed_head, PackedLinear | Int8Linear):
        _run(decoder.packed_head, range(multiple, n_rows + multiple, multiple))


def _run(linear: PackedLinear | Int8Linear, numbers: Iterable[int]) -> None:
    """Multiply with each number of rows that any of these is computed in."""
    for n_rows in sorted({size for n in numbers for size in linear.blocks(n)}):
        linear(torch.zeros(n_rows, linear.shape[1]))
