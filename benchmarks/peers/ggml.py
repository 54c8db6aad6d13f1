"""Writes whisper.cpp's model file. Knows nothing about where weights come from.

Layout, from whisper.cpp's `convert-pt-to-ggml.py` and its loader: a magic number, eleven 32-bit
integers, the mel filterbank, the vocabulary's bytes, then tensors, each with the number of its
dimensions, the length of its name, its type, its dimensions from the last to the first, its name
and its data. Matrices are float16 or q8_0 (blocks of 32: a float16 scale and 32 signed bytes);
convolutions are float16; biases, norms and positions are float32.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from service.audio.mel import mel_filterbank
from service.model import WhisperConfig

MAGIC = 0x67676D6C
F32, F16, Q8_0 = 0, 1, 8
"""Types of tensors."""
FILE_TYPES = {"f16": 1, "q8_0": 2007}
"""Of the file: 7 is mostly q8_0, in version 2 of ggml's quantisation."""
BLOCK = 32
_FLOAT32 = ("encoder.positional_embedding", "decoder.positional_embedding")
_BIAS_AS_COLUMN = ("encoder.conv1.bias", "encoder.conv2.bias")


def write_ggml(
    path: Path, weights: dict[str, Tensor], config: WhisperConfig, kind: Literal["f16", "q8_0"],
    n_text: int,
) -> None:  # fmt: skip
    """Write OpenAI's weights as a ggml file whose tokens are fillers."""
    with path.open("wb") as file:
        file.write(
            struct.pack(
                "<12i", MAGIC, config.n_vocab, config.n_audio_ctx, config.d_model,
                config.n_audio_head, config.n_audio_layer, config.n_text_ctx, config.d_model,
                config.n_text_head, config.n_text_layer, config.n_mels, FILE_TYPES[kind],
            )
        )  # fmt: skip
        filters = mel_filterbank(config.n_mels).numpy().astype("<f4")
        file.write(struct.pack("<2i", *filters.shape) + filters.tobytes())
        file.write(struct.pack("<i", n_text))
        for number in range(n_text):
            word = f" a{number}".encode()
            file.write(struct.pack("<i", len(word)) + word)
        for name, tensor in weights.items():
            _write_tensor(file, name, tensor, kind)


def _write_tensor(file: BinaryIO, name: str, tensor: Tensor, kind: str) -> None:
    values = tensor.float().numpy()
    if name in _BIAS_AS_COLUMN:
        values = values[:, None]
    if values.ndim < 2 or name in _FLOAT32 or name in _BIAS_AS_COLUMN:
        number, data = F32, values.astype("<f4").tobytes()
    elif kind == "f16" or values.ndim > 2:
        number, data = F16, values.astype("<f2").tobytes()
    else:
        number, data = Q8_0, q8_0(values)
    encoded = name.encode()
    file.write(struct.pack("<3i", values.ndim, len(encoded), number))
    file.write(struct.pack(f"<{values.ndim}i", *reversed(values.shape)) + encoded + data)


def q8_0(values: NDArray[np.float32]) -> bytes:
    """Return blocks of 32 numbers along the last axis: a float16 scale, then signed bytes."""
    blocks = values.reshape(-1, BLOCK)
    scales = np.abs(blocks).max(axis=1, keepdims=True) / 127
    inverse = np.divide(1.0, scales, out=np.zeros_like(scales), where=scales > 0)
    packed = np.empty(len(blocks), dtype=[("scale", "<f2"), ("values", "i1", BLOCK)])
    packed["scale"] = scales[:, 0]
    packed["values"] = np.rint(blocks * inverse)
    return packed.tobytes()
