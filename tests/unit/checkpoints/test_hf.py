from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from service.checkpoints import CheckpointFormat, build_model, load_checkpoint, save_hf_folder
from service.errors import CheckpointError
from service.model import WhisperConfig, WhisperModel
from service.text import WhisperTokenizer
from tests.unit.checkpoints.folders import edit_json, edit_tensors, refusal


def _shard(folder: Path) -> dict[str, str]:
    """Split the weights into two files with an index; return the index's map."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map: dict[str, str] = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file_name = f"model-{number:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file_name)
        weight_map |= dict.fromkeys(part, file_name)
    _write_index(folder, weight_map)
    return weight_map


def _write_index(folder: Path, weight_map: Mapping[str, str]) -> None:
    content = json.dumps({"weight_map": weight_map})
    (folder / "model.safetensors.index.json").write_text(content, encoding="utf-8")


def test_a_saved_model_comes_back_bit_for_bit(
    hf_folder: Path, model: WhisperModel, config: WhisperConfig, tokenizer: WhisperTokenizer
) -> None:
    checkpoint = load_checkpoint(str(hf_folder))
    assert checkpoint.config == config
    assert checkpoint.name == "a-model"
    assert checkpoint.format is CheckpointFormat.SAFETENSORS
    assert checkpoint.tokenizer.languages == tokenizer.languages
    built = build_model(checkpoint)
    expected = model.state_dict()
    assert built.state_dict().keys() == expected.keys()
    for name, tensor in built.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_a_built_model_is_for_inference_and_shares_nothing_with_the_file(hf_folder: Path) -> None:
    built = build_model(load_checkpoint(hf_folder), dtype=torch.bfloat16)
    assert not built.training
    assert not any(p.requires_grad for p in built.parameters())
    assert {t.dtype for t in built.state_dict().values()} == {torch.bfloat16}
    (hf_folder / "model.safetensors").write_bytes(b"")
    assert built.encode(torch.zeros(1, 80, 100)).isfinite().all()


def test_the_dtype_in_the_file_is_that_asked_for(
    hf_folder: Path, model: WhisperModel, config: WhisperConfig
) -> None:
    save_hf_folder(hf_folder, model.state_dict(), config, dtype=torch.float16)
    tensors = load_file(hf_folder / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert json.loads((hf_folder / "config.json").read_text())["dtype"] == "float16"
    assert build_model(load_checkpoint(hf_folder)).dtype == torch.float32


def test_a_key_bias_is_dropped_because_the_softmax_does_not_see_it(
    tmp_path: Path, config: WhisperConfig, tokenizer: WhisperTokenizer
) -> None:
    torch.manual_seed(1)
    biased = WhisperModel(config).requires_grad_(False).eval()
    save_hf_folder(tmp_path, biased.state_dict(), config, tokenizer=tokenizer)
    built = build_model(load_checkpoint(tmp_path))
    mel, tokens = torch.randn(1, 80, 100), torch.tensor([[3, 1, 4, 1, 5]])
    assert torch.allclose(built(mel, tokens), biased(mel, tokens), atol=1e-4)


def test_saving_refuses_a_state_that_is_not_the_models(
    tmp_path: Path, model: WhisperModel, config: WhisperConfig
) -> None:
    state = dict(model.state_dict())
    del state["decoder.ln.weight"]
    with pytest.raises(CheckpointError, match=r"decoder\.ln\.weight: expected 24, found nothing"):
        save_hf_folder(tmp_path, state, config)


def test_sharded_weights_load_as_the_same_model(hf_folder: Path, model: WhisperModel) -> None:
    _shard(hf_folder)
    checkpoint = load_checkpoint(hf_folder)
    expected = model.state_dict()
    assert all(torch.equal(checkpoint.state[name], expected[name]) for name in expected)


def test_a_missing_shard_is_named(hf_folder: Path) -> None:
    _shard(hf_folder)
    (hf_folder / "model-00002-of-00002.safetensors").unlink()
    assert "model-00002-of-00002.safetensors is missing" in refusal(hf_folder)


def test_an_index_may_not_lead_out_of_its_folder(hf_folder: Path) -> None:
    weight_map = _shard(hf_folder)
    _write_index(hf_folder, weight_map | {"model.decoder.fc9": "../elsewhere.safetensors"})
    assert "'../elsewhere.safetensors'" in refusal(hf_folder)


def test_an_index_that_lists_what_no_file_holds_is_refused(hf_folder: Path) -> None:
    weight_map = _shard(hf_folder)
    extra = {"model.decoder.fc9": "model-00001-of-00002.safetensors"}
    _write_index(hf_folder, weight_map | extra)
    assert "lists model.decoder.fc9" in refusal(hf_folder)


def _to_pytorch(folder: Path) -> dict[str, Tensor]:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    return tensors


@pytest.mark.parametrize("zipped", [True, False])
def test_pytorch_weights_load_in_the_new_and_the_old_container(
    hf_folder: Path, model: WhisperModel, zipped: bool
) -> None:
    tensors = _to_pytorch(hf_folder)
    path = hf_folder / "pytorch_model.bin"
    torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
    checkpoint = load_checkpoint(hf_folder)
    assert checkpoint.format is CheckpointFormat.PYTORCH
    expected = model.state_dict()
    assert all(torch.equal(checkpoint.state[name], expected[name]) for name in expected)


class _Touch:
    """Unpickling this would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("raw", [True, False])
def test_code_in_pytorch_weights_is_refused_and_not_run(hf_folder: Path, raw: bool) -> None:
    tensors: dict[str, Any] = _to_pytorch(hf_folder)
    trap = hf_folder / "trap"
    path = hf_folder / "pytorch_model.bin"
    if raw:
        path.write_bytes(pickle.dumps(_Touch(trap), protocol=2))
    else:
        torch.save(tensors | {"more": _Touch(trap)}, path)
    assert "refused" in refusal(hf_folder)
    assert not trap.exists()


def test_a_tied_head_in_the_file_is_fine_and_another_one_is_not(hf_folder: Path) -> None:
    def tied(tensors: dict[str, Tensor]) -> None:
        tensors["proj_out.weight"] = tensors["model.decoder.embed_tokens.weight"].clone()

    def untied(tensors: dict[str, Tensor]) -> None:
        tensors["proj_out.weight"] += 1

    edit_tensors(hf_folder, tied)
    assert load_checkpoint(hf_folder).config.d_model == 24
    edit_tensors(hf_folder, untied)
    assert "proj_out.weight differs" in refusal(hf_folder)


def test_names_without_the_prefix_of_the_bare_model_load(hf_folder: Path) -> None:
    tensors = load_file(hf_folder / "model.safetensors")
    bare = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    save_file(bare, hf_folder / "model.safetensors")
    expected = tensors["model.encoder.conv1.weight"]
    assert torch.equal(load_checkpoint(hf_folder).state["encoder.conv1.weight"], expected)


def test_a_missing_tensor_is_named_with_its_shape(hf_folder: Path) -> None:
    def drop(tensors: dict[str, Tensor]) -> None:
        del tensors["model.decoder.layers.2.fc1.weight"]

    edit_tensors(hf_folder, drop)
    message = refusal(hf_folder)
    assert "missing tensors: model.decoder.layers.2.fc1.weight (expected 28x24)" in message


def test_an_extra_tensor_is_named_with_its_shape(hf_folder: Path) -> None:
    def add(tensors: dict[str, Tensor]) -> None:
        tensors["model.encoder.layers.0.self_attn.k_proj.bias"] = torch.zeros(24)

    edit_tensors(hf_folder, add)
    message = refusal(hf_folder)
    assert "model.encoder.layers.0.self_attn.k_proj.bias (found 24)" in message


def test_a_misshapen_tensor_is_named_with_both_shapes(hf_folder: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors["model.encoder.conv1.weight"] = torch.zeros(24, 128, 3)

    edit_tensors(hf_folder, change)
    message = refusal(hf_folder)
    assert "model.encoder.conv1.weight (expected 24x80x3, found 24x128x3)" in message


def test_many_missing_tensors_are_counted_and_not_all_spelled_out(hf_folder: Path) -> None:
    edit_json(hf_folder / "config.json", {"decoder_layers": 9})
    message = refusal(hf_folder)
    assert "more" in message
    assert len(message) < 700


def test_integer_weights_are_refused(hf_folder: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors["model.encoder.conv1.bias"] = torch.zeros(24, dtype=torch.int8)

    edit_tensors(hf_folder, change)
    assert "model.encoder.conv1.bias has dtype I8" in refusal(hf_folder)


@pytest.mark.parametrize("keep", [0, 4, 200, -1])
def test_truncated_safetensors_are_refused(hf_folder: Path, keep: int) -> None:
    path = hf_folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    assert "not readable as safetensors" in refusal(hf_folder)


@pytest.mark.parametrize(
    ("file_name", "message"),
    [
        ("config.json", "no config.json"),
        ("model.safetensors", "no weights"),
        ("tokenizer.json", "no tokenizer.json"),
    ],
)
def test_a_missing_file_is_named(hf_folder: Path, file_name: str, message: str) -> None:
    (hf_folder / file_name).unlink()
    assert message in refusal(hf_folder)


def test_a_tokenizer_larger_than_the_model_is_refused(
    hf_folder: Path, model: WhisperModel, config: WhisperConfig
) -> None:
    state = dict(model.state_dict())
    state["decoder.token_embedding.weight"] = state["decoder.token_embedding.weight"][:-1]
    smaller = dataclasses.replace(config, n_vocab=config.n_vocab - 1)
    save_hf_folder(hf_folder, state, smaller)
    message = refusal(hf_folder)
    assert f"has {config.n_vocab} tokens, the model only {smaller.n_vocab}" in message


def test_another_tokenizer_can_be_named(hf_folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved.json"
    (hf_folder / "tokenizer.json").rename(moved)
    assert load_checkpoint(hf_folder, tokenizer=str(moved)).tokenizer.is_multilingual
