"""Damaged files of every format that is not `.apr`: one sentence each, never another error."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from service.checkpoints import load_checkpoint, save_hf_folder
from service.checkpoints.convert import Target, convert
from service.checkpoints.opened import open_model
from service.errors import CheckpointError
from service.inspection import describe
from service.inspection.validate import validate
from service.model import WhisperConfig, WhisperModel
from service.text import WhisperTokenizer

N_FILES = int(os.environ.get("EARSHOT_FUZZ", "60"))


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, make_tokenizer: Callable[..., WhisperTokenizer]
) -> Path:
    tokenizer = make_tokenizer()
    model = WhisperModel(WhisperConfig(80, 20, 8, 1, 1, 32, tokenizer.n_vocab, 16, 1, 1, 32))
    made = tmp_path_factory.mktemp("models") / "m"
    state = model.requires_grad_(False).state_dict()
    save_hf_folder(made, state, model.config, tokenizer=tokenizer)
    return made


def _changed(content: bytes, random_: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(random_.choice((1, 2, 8))):
        # the structure stands at both ends: headers, a pickle, a zip's directory
        at = random_.choice((random_.randrange(2000), -random_.randrange(1, 2000)))
        at = at % len(data)
        kind = random_.randrange(3)
        if kind == 0:
            data[at] = random_.randrange(256)
        elif kind == 1:
            del data[at : at + random_.randrange(1, 40)]
        else:
            data[at:at] = random_.randbytes(random_.randrange(1, 40))
    if random_.random() < 0.2:
        del data[random_.randrange(len(data)) :]
    return bytes(data)


def _looked_into(source: Path) -> str | None:
    """Do what every command does; return what was said instead, which is one line."""
    try:
        model = open_model(source)
        describe(model)
        validate(model)
        load_checkpoint(source, offline=True)
    except CheckpointError as error:
        return error.message
    return None


def _fuzz(target: Path, source: Path) -> int:
    """Damage a file again and again; return how often the model was refused."""
    random_, whole, refused = random.Random(target.name), target.read_bytes(), 0
    for _ in range(N_FILES):
        target.write_bytes(_changed(whole, random_))
        said = _looked_into(source)
        assert said is None or "\n" not in said
        refused += said is not None
    target.write_bytes(whole)
    return refused


@pytest.mark.filterwarnings("ignore")  # what torch says of files that it can still read
@pytest.mark.timeout(max(300, N_FILES))
@pytest.mark.parametrize("container", ["zip", "pickle"])
def test_a_damaged_openai_file_is_refused_in_a_sentence(
    tmp_path: Path, folder: Path, container: str
) -> None:
    path = tmp_path / "m.pt"
    convert(load_checkpoint(folder), path, Target.OPENAI)
    if container == "pickle":
        content = torch.load(path, weights_only=True)
        torch.save(content, path, _use_new_zipfile_serialization=False)
    assert _fuzz(path, path) > N_FILES // 4


@pytest.mark.timeout(max(300, N_FILES))
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_damaged_file_of_a_folder_is_refused_in_a_sentence(folder: Path, name: str) -> None:
    assert _fuzz(folder / name, folder) > N_FILES // 8


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b'{"a": ' * 50_000, b"{}", b"[]", b"\xff", b'{"n": ' + b"9" * 9999]
)
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "generation_config.json"])
def test_json_that_is_none_is_refused_in_a_sentence(
    tmp_path: Path, folder: Path, name: str, content: bytes
) -> None:
    copy = tmp_path / "m"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / name).write_bytes(content)
    said = _looked_into(copy)
    assert said is None or "\n" not in said
    assert said is not None or (name, content) == ("generation_config.json", b"{}")
