"""The model that all engines are compared on says what it should, in every format."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.peers.checkpoint import (
    EOT,
    N_PROMPT,
    N_TEXT,
    multilingual_tokenizer,
    openai_state,
    random_model,
    spoken,
)
from benchmarks.peers.engines import PROMPT
from benchmarks.peers.ggml import BLOCK, MAGIC, q8_0, write_ggml
from service.model import WhisperConfig

SMALL = WhisperConfig(
    n_mels=80, n_audio_ctx=40, d_model=64, n_audio_head=2, n_audio_layer=1, n_audio_ffn=128,
    n_vocab=51_865, n_text_ctx=48, n_text_head=2, n_text_layer=1, n_text_ffn=128,
)  # fmt: skip
Q8 = np.dtype([("scale", "<f2"), ("values", "i1", BLOCK)])


def test_model_says_its_text_and_then_ends_whatever_it_hears() -> None:
    model = random_model(SMALL, 9)
    for seed in (1, 2):
        mel = torch.randn(1, 80, 80, generator=torch.Generator().manual_seed(seed))
        tokens = list(PROMPT)
        while tokens[-1] != EOT and len(tokens) < 20:
            logits = model(mel, torch.tensor([tokens]))
            tokens.append(int(logits[0, -1].argmax()))
        assert tokens[N_PROMPT:] == [*spoken(9), EOT]


def test_tokenizer_has_the_ids_of_openai_s_multilingual_models() -> None:
    tokenizer = multilingual_tokenizer()
    assert tokenizer.eot == N_TEXT == EOT
    assert tokenizer.sot_sequence("en", "transcribe", timestamps=False) == PROMPT
    assert tokenizer.timestamp_begin == 50_364


def test_text_longer_than_there_are_words_is_refused() -> None:
    with pytest.raises(ValueError, match="1 to 164"):
        spoken(165)


def test_q8_0_is_read_back_to_half_a_step() -> None:
    values = np.random.default_rng(0).normal(size=(6, 64)).astype(np.float32)
    values[2] = 0
    raw = np.frombuffer(q8_0(values), dtype=Q8)
    back = (raw["scale"].astype(np.float32)[:, None] * raw["values"]).reshape(values.shape)
    steps = np.repeat(np.abs(values.reshape(-1, BLOCK)).max(axis=1) / 127, BLOCK)
    assert (np.abs(back - values).ravel() <= 0.51 * steps + 1e-3 * np.abs(values).ravel()).all()


@pytest.mark.parametrize("kind", ["f16", "q8_0"])
def test_ggml_file_holds_every_tensor_with_its_shape(tmp_path: Path, kind: str) -> None:
    weights = openai_state(random_model(SMALL, 3).state_dict(), SMALL)
    write_ggml(path := tmp_path / "model.bin", weights, SMALL, kind, 300)  # type: ignore[arg-type]
    data = path.read_bytes()
    header = struct.unpack_from("<12i", data)
    assert header[:4] == (MAGIC, 51_865, 40, 64)
    at = 48
    n_mels, n_bins = struct.unpack_from("<2i", data, at)
    at += 8 + 4 * n_mels * n_bins
    (n_words,) = struct.unpack_from("<i", data, at)
    at += 4
    for _ in range(n_words):
        at += 4 + struct.unpack_from("<i", data, at)[0]
    found = {}
    while at < len(data):
        n_dims, n_name, number = struct.unpack_from("<3i", data, at)
        shape = struct.unpack_from(f"<{n_dims}i", data, at + 12)[::-1]
        at += 12 + 4 * n_dims
        name = data[at : at + n_name].decode()
        count = int(np.prod(shape))
        at += n_name + {0: 4 * count, 1: 2 * count, 8: count // BLOCK * Q8.itemsize}[number]
        found[name] = shape if "conv" not in name or len(shape) != 2 else shape[:1]
    assert at == len(data)
    assert found == {name: tuple(tensor.shape) for name, tensor in weights.items()}
