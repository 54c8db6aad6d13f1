"""The commands that look into model files: what they print, and how they end."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from service.checkpoints import save_hf_folder
from service.cli.commands import app
from service.model import WhisperConfig, WhisperModel
from service.text.tokenizer import load_tokenizer
from tests.parity.tokens import write_tokenizer
from tests.unit.checkpoints.apr_bytes import V2

EMBEDDING = "model.decoder.embed_tokens.weight"
COMMANDS = ("inspect", "tensors", "validate", "flow")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "m"
    config = WhisperConfig(80, 40, 16, 2, 1, 64, 1800, 32, 4, 2, 64)
    whisper = WhisperModel(config).requires_grad_(False)
    whisper.decoder.positional_embedding.normal_()
    folder.mkdir()
    tokenizer = load_tokenizer(write_tokenizer(folder, 1800))
    save_hf_folder(folder, whisper.state_dict(), config, tokenizer=tokenizer)
    return folder


def _run(*arguments: object) -> Any:
    none = {name: None for name in os.environ if name.startswith("EARSHOT_")}
    result = CliRunner(env=none).invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def test_tensors_as_json_have_the_names_and_figures_of_the_file(model: Path) -> None:
    listed = json.loads(_run("tensors", model, "--json").stdout)
    assert list(listed) == ["file", "format", "tensor_count", "total_size_bytes", "tensors"]
    assert listed["tensor_count"] == len(listed["tensors"]) > 50
    assert listed["total_size_bytes"] == sum(t["size_bytes"] for t in listed["tensors"])
    expected = {"name", "shape", "dtype", "size_bytes", "mean", "std", "min", "max"}
    assert all(set(t) == expected | {"nan_count", "inf_count"} for t in listed["tensors"])
    assert all(t["mean"] is None for t in listed["tensors"])
    (embedding,) = [t for t in listed["tensors"] if t["name"] == EMBEDDING]
    assert (embedding["shape"], embedding["dtype"]) == ([1800, 16], "F32")
    assert embedding["size_bytes"] == 1800 * 16 * 4


def test_tensors_are_filtered_limited_and_measured(model: Path) -> None:
    listed = json.loads(
        _run("tensors", model, "--json", "--stats", "--filter", "layer_norm", "--limit", 1).stdout
    )
    assert listed["tensor_count"] == 2 * (2 + 2 * 3 + 2)  # weights and biases
    (norm,) = listed["tensors"]
    assert "layer_norm" in norm["name"]
    assert (norm["nan_count"], norm["inf_count"]) == (0, 0)
    assert norm["std"] == 0


def test_tensors_of_an_apr_file_are_dequantised_for_their_figures(
    tmp_path: Path, model: Path
) -> None:
    path = tmp_path / "m.apr"
    assert _run("convert", model, path, "--quantize", "q8").exit_code == 0
    listed = json.loads(_run("tensors", path, "--json", "--stats").stdout)
    assert listed["format"] == "apr-v2"
    by_name = {t["name"]: t for t in listed["tensors"]}
    assert {"__vocab__", "__mel_filters__"} < by_name.keys()
    found = by_name["decoder.layers.1.fc1.weight"]
    assert found["dtype"] == "AprQ8"
    whole = json.loads(_run("tensors", model, "--json", "--stats").stdout)
    (expected,) = [t for t in whole["tensors"] if t["name"].endswith("decoder.layers.1.fc1.weight")]
    assert found["std"] == pytest.approx(expected["std"], rel=0.02)
    assert found["size_bytes"] == 4 + 64 * 16


_INSPECT = ["name", "format", "source", "dims", "parameters", "nbytes", "tensors", "tokenizer",
            "metadata", "filterbank", "checksums", "remarks"]  # fmt: skip
_FLOW = ["file", "format", "architecture", "component", "total_tensors", "encoder_layers",
         "decoder_layers", "assumed", "flow", "weights"]  # fmt: skip
_KEYS = {
    "inspect": _INSPECT,
    "tensors": ["file", "format", "tensor_count", "total_size_bytes", "tensors"],
    "validate": ["file", "format", "valid", "tensors_checked", "findings"],
    "flow": _FLOW,
}


@pytest.mark.parametrize("kind", ["safetensors", "openai", "apr-v1", "apr-v2", "safetensors alone"])
def test_every_command_reads_every_format(tmp_path: Path, model: Path, kind: str) -> None:
    path = model
    if kind == "safetensors alone":
        path = model / "model.safetensors"
    elif kind != "safetensors":
        path = tmp_path / "made"
        assert _run("convert", model, path, "--format", kind).exit_code == 0
    for command, keys in _KEYS.items():
        result = _run(command, path, "--json")
        assert result.exit_code == 0, result.stderr
        content = json.loads(result.stdout)
        assert list(content) == keys
        assert content["format"] == kind.split(maxsplit=1)[0]
        assert content["source" if command == "inspect" else "file"] == str(path)
    assert content["encoder_layers"] == 1
    flows = {box["component"]: box for box in content["flow"]}
    whole = json.loads(_run("flow", model, "--json").stdout)["flow"]
    assert [box["parameters"] for box in content["flow"]] == [box["parameters"] for box in whole]
    assert flows["encoder"]["flops_per_window"] == whole[2]["flops_per_window"] > 0


@pytest.mark.parametrize("command", COMMANDS)
def test_people_and_machines_get_the_same(model: Path, command: str) -> None:
    for arguments in ((), ("--json",)):
        result = _run(command, model, *arguments)
        assert result.exit_code == 0, result.stderr
        assert result.stdout
    json.loads(result.stdout)


@pytest.mark.parametrize("command", [*COMMANDS, "convert"])
@pytest.mark.parametrize(
    "content", [None, b"", b"RIFF no model", b"APR1", b"APR\0" + bytes(100), b"PK\3\4 nothing"]
)
def test_what_cannot_be_read_is_one_line_and_exit_code_2(
    tmp_path: Path, command: str, content: bytes | None
) -> None:
    path = tmp_path / "model.apr"
    if content is not None:
        path.write_bytes(content)
    rest = [tmp_path / "target.apr"] if command == "convert" else []
    result = _run(command, path, *rest)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"earshot: {path}: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_the_drawing_model_can_be_looked_at(shared: Path) -> None:
    path = shared / "fixtures/apr/test.apr"
    assert "Encoder Layers x 4" in _run("flow", path).stdout
    inspected = json.loads(_run("inspect", path, "--json").stdout)
    assert inspected["dims"]["n_text_head"] == 2
    assert all(checksum["holds"] for checksum in inspected["checksums"])
    assert inspected["metadata"]["n_audio_layer"] == 4
    assert json.loads(_run("tensors", path, "--json").stdout)["tensor_count"] == 163
    checked = _run("validate", path)
    assert checked.exit_code == 2
    assert "error: contract: encoder.conv1.weight is missing" in checked.stdout
    assert checked.stdout.endswith("INVALID: 163 tensors checked, 4 violations\n")


def test_inspect_shows_vocabulary_filterbank_and_checksum(tmp_path: Path, model: Path) -> None:
    path = tmp_path / "m.apr"
    assert _run("convert", model, path, "--format", "apr-v1").exit_code == 0
    text = _run("inspect", path).stdout
    for part in ("1,800 tokens", "filterbank: [80, 201], at most 0 ", "0x", ", right", "n_mels"):
        assert part in text
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert "wrong, its bytes give 0x" in _run("inspect", path).stdout


def test_what_a_stranger_wrote_is_shown_and_not_obeyed(tmp_path: Path) -> None:
    path = tmp_path / "m.apr"
    evil = "\x1b]0;mine\x07[red]\nearshot: all is well"
    metadata = {evil: evil, "lone": "\ud800", "n_audio_head": 1}
    tensors = {f"{half}.layers.0.fc1.weight{end}": ((8, 8), 0, bytes(256))
               for half in ("encoder", "decoder") for end in ("", evil)}  # fmt: skip
    tensors["decoder.embed_tokens.weight"] = ((8, 8), 0, bytes(256))
    path.write_bytes(V2(tensors, metadata=metadata).build())
    for command in COMMANDS:
        for options in ((), ("--json",)):
            result = _run(command, path, *options)
            assert result.exit_code == (2 if command == "validate" else 0)
            assert "\x1b" not in result.stdout + result.stderr
            assert "\nearshot: all" not in result.stdout + result.stderr
    assert "\\x1b]0;mine\\x07[red]" in _run("tensors", path).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--component", "attention"), "no component 'attention'"),
        (("--layer", "9"), "no layer '9'"),
    ],
)
def test_flow_refuses_what_there_is_not(
    model: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = _run("flow", model, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


def test_flow_draws_in_ascii_and_with_figures(model: Path) -> None:
    text = _run("flow", model, "--ascii", "--stats", "--component", "ffn", "--layer", "0").stdout
    assert text.isascii()
    (row,) = [line for line in text.splitlines() if "encoder.layers.0.fc1.weight" in line]
    assert row.split()[-1] == "0"  # NaN
    flow = json.loads(_run("flow", model, "--json", "--stats", "--component", "ffn").stdout)
    assert flow["component"] == "ffn"
    assert len(flow["weights"]) == 3 * 4
    assert all(weight["nan_count"] == 0 for weight in flow["weights"])


def test_a_damaged_weight_is_invalid(tmp_path: Path, model: Path) -> None:
    path = tmp_path / "m.pt"
    assert _run("convert", model, path).exit_code == 0
    content = torch.load(path, weights_only=True)
    content["model_state_dict"]["encoder.conv1.weight"][0, 0, 0] = torch.nan
    torch.save(content, path)
    result = _run("validate", path, "--json")
    assert result.exit_code == 2
    report = json.loads(result.stdout)
    assert not report["valid"]
    assert [f["tensor"] for f in report["findings"]] == ["encoder.conv1.weight"]
