from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch

from service.checkpoints import save_hf_folder
from service.checkpoints.opened import open_model
from service.inspection import describe
from service.model import WhisperConfig, WhisperModel
from service.text import WhisperTokenizer

Make = Callable[..., WhisperTokenizer]


def test_a_description_holds_what_the_file_holds(make_tokenizer: Make, tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    config = WhisperConfig(80, 40, 16, 2, 1, 64, tokenizer.n_vocab, 32, 4, 2, 48)
    model = WhisperModel(config)
    save_hf_folder(
        tmp_path / "m", model.state_dict(), config, tokenizer=tokenizer, dtype=torch.float16
    )

    found = describe(open_model(tmp_path / "m"))

    assert (found.name, found.format) == ("m", "safetensors")
    assert found.dims["n_text_layer"] == 2
    held = {name: tensor.numel() for name, tensor in model.state_dict().items()}
    key_biases = 16 * (1 + 2 + 2)  # the file has none
    assert found.parameters["total"] == sum(held.values()) - key_biases
    encoder = sum(n for k, n in held.items() if k.startswith("enc"))
    assert found.parameters["encoder"] == encoder - 16
    assert found.parameters["token embedding and LM head"] == tokenizer.n_vocab * 16
    by_name = {tensor.name: tensor for tensor in found.tensors}
    conv = by_name["model.encoder.conv1.weight"]
    assert (conv.shape, conv.dtype, conv.nbytes) == ((16, 80, 3), "F16", 16 * 80 * 3 * 2)
    assert found.nbytes == 2 * (sum(held.values()) - key_biases)
    assert found.tokenizer is not None
    assert found.tokenizer.n_text == 256
    assert found.tokenizer.n_languages == 3
    assert found.tokenizer.special["eot"] == tokenizer.eot


def test_a_description_survives_json(make_tokenizer: Make, tmp_path: Path) -> None:
    tokenizer = make_tokenizer(languages=())
    config = WhisperConfig(128, 40, 16, 2, 1, 64, tokenizer.n_vocab, 32, 4, 2, 48)
    save_hf_folder(tmp_path / "m", WhisperModel(config).state_dict(), config, tokenizer=tokenizer)
    content = describe(open_model(tmp_path / "m")).to_json()
    assert json.loads(json.dumps(content)) == content
