from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from service.checkpoints import CheckpointFormat, build_model, load_checkpoint
from service.checkpoints.names import Naming
from service.checkpoints.openai_pt import RELEASED
from service.checkpoints.state import parts_of
from service.errors import CheckpointError
from service.model import WhisperConfig, WhisperModel
from service.text import WhisperTokenizer


def _refusal(source: str | Path, tokenizer: str | None = None) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(source, tokenizer=tokenizer, offline=True)
    assert "\n" not in caught.value.message
    return caught.value.message


def _dims(config: WhisperConfig) -> dict[str, int]:
    return {
        "n_mels": config.n_mels,
        "n_audio_ctx": config.n_audio_ctx,
        "n_audio_state": config.d_model,
        "n_audio_head": config.n_audio_head,
        "n_audio_layer": config.n_audio_layer,
        "n_vocab": config.n_vocab,
        "n_text_ctx": config.n_text_ctx,
        "n_text_state": config.d_model,
        "n_text_head": config.n_text_head,
        "n_text_layer": config.n_text_layer,
    }


@pytest.fixture(scope="session")
def openai_model(tokenizer: WhisperTokenizer) -> WhisperModel:
    """A model whose feed-forward is four times as wide, as all of OpenAI's are."""
    torch.manual_seed(6)
    config = WhisperConfig(80, 40, 16, 2, 1, 64, tokenizer.n_vocab, 32, 4, 2, 64)
    return WhisperModel(config).requires_grad_(False).eval()


@pytest.fixture
def openai_content(openai_model: WhisperModel) -> dict[str, Any]:
    config = openai_model.config
    tensors = dict(parts_of(openai_model.state_dict(), config, Naming.OPENAI))
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    return {"dims": _dims(config), "model_state_dict": tensors}


@pytest.fixture
def tokenizer_file(tmp_path: Path, tokenizer: WhisperTokenizer) -> str:
    path = tmp_path / "some-tokenizer.json"
    path.write_text(tokenizer.to_json(), encoding="utf-8")
    return str(path)


def _write(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def test_an_openai_file_loads_whatever_it_is_called(
    tmp_path: Path,
    openai_content: dict[str, Any],
    openai_model: WhisperModel,
    tokenizer_file: str,
) -> None:
    path = _write(tmp_path / "model.safetensors", openai_content)
    checkpoint = load_checkpoint(path, tokenizer=tokenizer_file)
    assert checkpoint.format is CheckpointFormat.OPENAI
    assert checkpoint.config == openai_model.config
    assert checkpoint.generation.suppress_tokens
    mel, tokens = torch.randn(1, 80, 80), torch.tensor([[3, 1, 4]])
    expected = openai_model(mel, tokens)
    assert torch.allclose(build_model(checkpoint)(mel, tokens), expected, atol=1e-5)


def test_an_openai_files_missing_tensor_is_named_as_openai_names_it(
    tmp_path: Path, openai_content: dict[str, Any], tokenizer_file: str
) -> None:
    del openai_content["model_state_dict"]["decoder.blocks.1.cross_attn.key.weight"]
    path = _write(tmp_path / "model.pt", openai_content)
    expected = "missing tensors: decoder.blocks.1.cross_attn.key.weight (expected 16x16)"
    assert expected in _refusal(path, tokenizer_file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_mels": None}, "dims must have integers for n_mels"),
        ({"n_audio_state": 32}, "n_audio_state=32 and n_text_state=16"),
        ({"n_text_head": 3}, "n_text_head=3 does not divide"),
        ({"n_vocab": 1000}, "decoder.token_embedding.weight"),
    ],
)
def test_dims_that_cannot_be_say_why(
    tmp_path: Path,
    openai_content: dict[str, Any],
    tokenizer_file: str,
    changes: dict[str, object],
    message: str,
) -> None:
    openai_content["dims"] |= changes
    path = _write(tmp_path / "model.pt", openai_content)
    assert message in _refusal(path, tokenizer_file)


def test_an_openai_file_of_no_released_size_needs_a_tokenizer(
    tmp_path: Path, openai_content: dict[str, Any]
) -> None:
    path = _write(tmp_path / "model.pt", openai_content)
    message = _refusal(path)
    assert "the file holds no tokenizer" in message
    assert "EARSHOT_TOKENIZER" in message


def test_an_openai_file_with_another_sizes_tokenizer_is_refused(
    tmp_path: Path, openai_content: dict[str, Any], tokenizer: WhisperTokenizer
) -> None:
    definition = json.loads(tokenizer.to_json())
    definition["added_tokens"] = definition["added_tokens"][:-1]
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition), encoding="utf-8")
    path = _write(tmp_path / "model.pt", openai_content)
    message = _refusal(path, str(tmp_path))
    assert f"the model has {tokenizer.n_vocab} tokens" in message
    assert str(tokenizer.n_vocab - 1) in message


def test_every_released_size_has_one_name() -> None:
    assert len(set(RELEASED.values())) == len(RELEASED)


def test_a_dictionary_that_is_not_openais_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "weights.bin", {"model.encoder.conv1.weight": torch.zeros(1)})
    assert "expected OpenAI's dims and model_state_dict" in _refusal(path)


@pytest.mark.parametrize("keep", [5, 100, 3000])
def test_a_truncated_openai_file_is_refused(
    tmp_path: Path, openai_content: dict[str, Any], keep: int
) -> None:
    path = _write(tmp_path / "model.pt", openai_content)
    path.write_bytes(path.read_bytes()[:keep])
    assert str(path) in _refusal(path)


@pytest.mark.parametrize("magic", [b"APR1", b"APR\0", b"APR2"])
def test_an_apr_model_is_known_by_its_first_bytes(tmp_path: Path, magic: bytes) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(magic + bytes(60))
    assert "truncated or damaged" in _refusal(path) or "no encoder-decoder" in _refusal(path)


@pytest.mark.parametrize("content", [b"", b"RIFF1234WAVEfmt ", b"hello"])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    assert "not a model file" in _refusal(path)


def test_safetensors_alone_are_no_model(hf_folder: Path) -> None:
    assert "give the folder" in _refusal(hf_folder / "model.safetensors")


def test_an_empty_folder_and_a_missing_path_are_named(tmp_path: Path) -> None:
    assert "empty" in _refusal(tmp_path)
    assert "no such file or folder" in _refusal(tmp_path / "nothing")
    assert "no such file or folder" in _refusal("./nothing/here")
    assert "no such file or folder" in _refusal("tiny")


def _lay_out_cache(cache: Path, hub_id: str, files: Path) -> None:
    """Put files where huggingface_hub looks for a downloaded model."""
    repository = cache / ("models--" + hub_id.replace("/", "--"))
    revision = "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision, encoding="utf-8")
    shutil.copytree(files, repository / "snapshots" / revision)


_LOAD = """
import sys
from service.checkpoints import build_model, load_checkpoint
from service.errors import CheckpointError
for source in sys.argv[1:]:
    try:
        checkpoint = load_checkpoint(source)
        build_model(checkpoint)
        print(checkpoint.name, checkpoint.format, checkpoint.tokenizer.n_vocab)
    except CheckpointError as error:
        print("refused:", error.message)
"""


@pytest.mark.timeout(600)
def test_a_hub_id_loads_from_the_cache_without_a_network_or_says_what_to_do(
    tmp_path: Path, hf_folder: Path, config: WhisperConfig
) -> None:
    cache = tmp_path / "cache"
    _lay_out_cache(cache, "someone/whisper-small-voice", hf_folder)
    # In a process of its own: the hub's library reads its variables when it is imported.
    done = subprocess.run(
        [sys.executable, "-c", _LOAD, "someone/whisper-small-voice", "openai/whisper-tiny"],
        env={**os.environ, "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
        timeout=590,
    )
    cached, absent = done.stdout.splitlines()
    assert cached == f"someone/whisper-small-voice safetensors {config.n_vocab}", done.stderr
    assert absent.startswith("refused: openai/whisper-tiny: not in the local cache")
    assert "hf download openai/whisper-tiny" in absent


def test_offline_needs_no_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert "hf download openai/whisper-base" in _refusal("openai/whisper-base")


def test_an_openai_file_of_a_released_size_takes_that_sizes_tokenizer_from_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    tiny = WhisperConfig(80, 1500, 384, 6, 4, 1536, 51865, 448, 6, 4, 1536)
    with torch.device("meta"):
        shapes = dict(parts_of(WhisperModel(tiny).state_dict(), tiny, Naming.OPENAI))
    state = {n: torch.zeros(()).expand(tensor.shape) for n, tensor in shapes.items()}
    path = _write(tmp_path / "tiny.pt", {"dims": _dims(tiny), "model_state_dict": state})
    message = _refusal(path)
    assert message.startswith("the tokenizer openai/whisper-tiny: not in the local cache")
    assert "EARSHOT_TOKENIZER" in message
