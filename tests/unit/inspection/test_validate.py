"""What is said of files that are wrong, in every way that a file can be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from service.checkpoints import load_checkpoint, save_hf_folder
from service.checkpoints.convert import Target, convert
from service.checkpoints.names import Naming
from service.checkpoints.opened import open_model
from service.checkpoints.state import parts_of
from service.inspection.stats import measure
from service.inspection.validate import contract, validate
from service.model import WhisperConfig, WhisperModel
from service.text import WhisperTokenizer

Make = Callable[..., WhisperTokenizer]
Edit = Callable[[dict[str, Tensor]], object]
CONV, EMBEDDING = "model.encoder.conv1.weight", "model.decoder.embed_tokens.weight"


@pytest.fixture
def folder(tmp_path: Path, make_tokenizer: Make) -> Path:
    tokenizer = make_tokenizer()
    config = WhisperConfig(80, 40, 16, 2, 1, 64, tokenizer.n_vocab, 32, 4, 2, 64)
    model = WhisperModel(config).requires_grad_(False)
    model.decoder.positional_embedding.normal_()
    save_hf_folder(tmp_path / "m", model.state_dict(), config, tokenizer=tokenizer)
    return tmp_path / "m"


def _edit(folder: Path, edit: Edit) -> Path:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")
    return folder


def _errors(source: Path) -> list[str]:
    report = validate(open_model(source))
    errors = [
        f"{f.check} {f.tensor}: {f.message}" for f in report.findings if f.severity == "error"
    ]
    assert report.valid == (not errors)
    return errors


@pytest.mark.parametrize("target", list(Target))
def test_a_good_model_is_valid_in_every_format(
    tmp_path: Path, folder: Path, target: Target
) -> None:
    convert(load_checkpoint(folder), tmp_path / "made", target)
    assert _errors(tmp_path / "made") == []


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda t: t.pop(CONV), "contract None: encoder.conv1.weight is missing"),
        (
            lambda t: t.update({EMBEDDING: t[EMBEDDING].T.contiguous()}),
            f"contract {EMBEDDING}: expected [1768, 16], found [16, 1768]",
        ),
        (
            lambda t: t.update({"model.extra": torch.ones(2)}),
            "contract model.extra: Whisper has no such tensor",
        ),
        (lambda t: t[CONV].view(-1)[:2].fill_(torch.nan), f"numbers {CONV}: 2 NaN"),
        (lambda t: t[CONV].view(-1)[:1].fill_(-torch.inf), f"numbers {CONV}: 1 infinite numbers"),
        (lambda t: t[CONV].zero_(), f"numbers {CONV}: all numbers are zero"),
        (lambda t: t[CONV].fill_(0.5), f"numbers {CONV}: all numbers are 0.5"),
    ],
)
def test_a_tensor_that_is_wrong_is_named(folder: Path, edit: Edit, expected: str) -> None:
    assert _errors(_edit(folder, edit)) == [expected]


def test_a_wrong_checksum_and_filterbank_are_found(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "m.apr"
    convert(load_checkpoint(folder), path, Target.APR_V2)
    model = open_model(path)
    assert model.filters is not None
    content = bytearray(path.read_bytes())
    at = content.find(model.filters.numpy().tobytes())
    content[at : at + 4] = b"\0\0\x80?"
    path.write_bytes(content)
    checksum, filterbank = _errors(path)
    assert checksum.startswith("checksum None: m.apr: the CRC32 of the file is 0x")
    assert filterbank.startswith("filterbank None: differs from Slaney's formula by 1")


def test_a_tokenizer_that_is_damaged_is_an_error_and_none_is_a_warning(
    tmp_path: Path, folder: Path
) -> None:
    weights = folder / "model.safetensors"
    report = validate(open_model(weights))
    assert report.valid
    assert [(f.severity, f.check) for f in report.findings] == [("warning", "tokenizer")]
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    assert "tokenizer None" in _errors(folder)[0]


def test_the_fixtures_are_told_apart(shared: Path) -> None:
    fixtures = shared / "fixtures/apr"
    for name in ("v1_f32", "v1_int8", "v2_f32", "v2_f16", "v2_q8", "v2_q4"):
        assert _errors(fixtures / f"{name}.apr") == [], name
    assert len(_errors(fixtures / "test.apr")) == 4  # two convolutions
    for name in ("v1_bad_crc", "v2_bad_header_crc"):
        assert _errors(fixtures / f"{name}.apr")[0].startswith("checksum"), name


@pytest.mark.parametrize("separate_head", [False, True])
def test_the_contract_is_the_models_own(separate_head: bool) -> None:
    config = WhisperConfig(128, 40, 16, 2, 3, 20, 300, 32, 4, 2, 24, separate_head=separate_head)
    with torch.device("meta"):
        state = dict(parts_of(WhisperModel(config).state_dict(), config, Naming.HF))
    assert contract(config) == {name: tuple(tensor.shape) for name, tensor in state.items()}


def test_figures_are_over_the_finite_numbers() -> None:
    values = torch.tensor([1.0, 3.0, torch.nan, torch.inf, 0.0, -4.0])
    stats = measure(values)
    assert (stats.min, stats.max, stats.mean) == (-4, 3, 0)
    assert stats.std == pytest.approx((26 / 4) ** 0.5)
    assert (stats.nan_count, stats.inf_count, stats.zero_count) == (1, 1, 1)
    assert measure(torch.tensor([torch.nan])).mean is None
    large = torch.rand(3_000_000)
    assert measure(large).mean == pytest.approx(large.double().mean().item())
