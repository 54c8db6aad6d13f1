"""Conversions: round trips that keep every bit the dtype allows, and targets that are whole."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from service.checkpoints import Checkpoint, build_model, load_checkpoint, save_hf_folder
from service.checkpoints.apr import encodings, read_apr
from service.checkpoints.checkpoint import GenerationConfig
from service.checkpoints.convert import Target, convert, target_of
from service.errors import CheckpointError
from service.model import WhisperConfig, WhisperModel
from service.text import WhisperTokenizer

BUILTIN = Path(__file__).parents[3] / "service" / "builtin"
APR_TARGETS = [Target.APR_V1, Target.APR_V2]


@pytest.fixture(scope="session")
def folder(
    tmp_path_factory: pytest.TempPathFactory, make_tokenizer: Callable[..., WhisperTokenizer]
) -> Path:
    """A model with settings that no default would give."""
    tokenizer = make_tokenizer()
    config = WhisperConfig(80, 50, 64, 4, 2, 256, tokenizer.n_vocab, 32, 2, 3, 256, 8)
    torch.manual_seed(1)
    model = WhisperModel(config).requires_grad_(False)
    for name, tensor in model.state_dict().items():  # Whisper's keys have no bias
        if name.endswith("attn.qkv.bias"):
            tensor[64:128] = 0
        elif name.endswith("key_value.bias"):
            tensor[:64] = 0
    generation = GenerationConfig(True, (1, 2), (), ((2, 1),), None)
    made = tmp_path_factory.mktemp("models") / "a-model"
    save_hf_folder(made, model.state_dict(), config, tokenizer=tokenizer, generation=generation)
    return made


def _converted(
    source: Checkpoint, path: Path, target: Target, quantize: str | None = None
) -> Checkpoint:
    convert(source, path, target, quantize=quantize)
    return load_checkpoint(path, offline=True)


def _assert_same(found: Checkpoint, expected: Checkpoint) -> None:
    assert found.config == expected.config
    assert found.generation == expected.generation
    assert found.state.keys() == expected.state.keys()
    for name, tensor in expected.state.items():
        assert torch.equal(found.state[name].double(), tensor.double()), name
    ours, theirs = found.tokenizer, expected.tokenizer
    ids = range(theirs.n_vocab)
    assert [ours.token_text(i) for i in ids] == [theirs.token_text(i) for i in ids]
    text = "zero one ümläut 日本 <|0.00|>"
    assert ours.encode(text) == theirs.encode(text)
    assert ours.is_multilingual == theirs.is_multilingual


@pytest.mark.parametrize("target", list(Target))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_format_and_back_keeps_every_bit(
    tmp_path: Path, folder: Path, target: Target, dtype: torch.dtype
) -> None:
    loaded = load_checkpoint(folder)
    save_hf_folder(
        tmp_path / "source", loaded.state, loaded.config,
        tokenizer=loaded.tokenizer, generation=loaded.generation, dtype=dtype,
    )  # fmt: skip
    source = load_checkpoint(tmp_path / "source")
    there = _converted(source, tmp_path / "there", target)
    _assert_same(there, source)
    if target is not Target.APR_V1:  # which has no half precision
        assert {info.dtype for name, info in there.state.tensors.items()} == {dtype}
    _assert_same(_converted(there, tmp_path / "back", Target.HF), source)


def test_a_head_of_its_own_goes_where_there_is_room_for_it(tmp_path: Path, folder: Path) -> None:
    tied = load_checkpoint(folder)
    config = replace(tied.config, separate_head=True)
    state = {**tied.state, "decoder.head": torch.randn(config.n_vocab, config.d_model)}
    save_hf_folder(tmp_path / "hf", state, config, tokenizer=tied.tokenizer)
    source = load_checkpoint(tmp_path / "hf")
    assert source.config == config
    there = _converted(source, tmp_path / "m.apr", Target.APR_V2)
    _assert_same(there, source)
    _assert_same(_converted(there, tmp_path / "back", Target.HF), source)
    small = _converted(source, tmp_path / "q4.apr", Target.APR_V2, "q4")
    assert small.state.tensors["proj_out.weight"].encoding == "AprQ8"
    assert small.config == config
    for target in (Target.APR_V1, Target.OPENAI):
        with pytest.raises(CheckpointError, match="no LM head but the token embedding"):
            convert(source, tmp_path / "refused", target)


@pytest.mark.parametrize("target", APR_TARGETS)
def test_the_built_in_model_converted_is_the_same_model(tmp_path: Path, target: Target) -> None:
    source = load_checkpoint(BUILTIN)
    found = _converted(source, tmp_path / "builtin.apr", target)
    _assert_same(found, source)
    mel, tokens = torch.randn(1, 80, 128), torch.tensor([[294, 300, 259]])
    expected = build_model(source)(mel, tokens)
    assert torch.equal(build_model(found)(mel, tokens), expected)


@pytest.mark.parametrize(
    ("target", "quantize", "tolerance"),
    [
        (Target.APR_V2, "f16", 2e-3),
        (Target.HF, "f16", 2e-3),
        (Target.OPENAI, "f16", 2e-3),
        (Target.APR_V2, "q8", 0.02),
        (Target.APR_V2, "q4", 0.2),
        (Target.APR_V1, "int8", 0.02),
    ],
)
def test_a_quantised_model_is_close_and_smaller(
    tmp_path: Path, folder: Path, target: Target, quantize: str, tolerance: float
) -> None:
    source = load_checkpoint(folder)
    found = _converted(source, tmp_path / "made", target, quantize)
    assert found.generation == source.generation
    for name, tensor in source.state.items():
        difference = (found.state[name].float() - tensor).norm() / tensor.norm().clamp(min=1e-9)
        assert difference <= tolerance, name
    stored = sum(tensor.nbytes for tensor in found.state.tensors.values())
    assert stored < 0.65 * sum(t.nbytes for t in source.state.tensors.values())


def test_what_is_quantised_and_what_is_not(tmp_path: Path, folder: Path) -> None:
    convert(load_checkpoint(folder), tmp_path / "m.apr", Target.APR_V2, quantize="q4")
    file = read_apr(tmp_path / "m.apr")
    stored = {name: tensor.encoding.name for name, tensor in file.tensors.items()}
    assert stored["encoder.layers.0.fc1.weight"] == "AprQ4"
    assert stored["decoder.embed_tokens.weight"] == "AprQ8"
    for name in (
        "encoder.conv1.weight",
        "decoder.embed_positions.weight",
        "decoder.layer_norm.bias",
    ):
        assert stored[name] == "F32"
    assert file.flags["quantized"]
    assert file.flags["row_major"]
    assert list(file.tensors) == sorted(file.tensors, key=str.encode)
    assert all(tensor.offset % 64 == 0 for tensor in file.tensors.values())


def test_int8_and_aprq8_round_half_away_from_zero() -> None:
    values = torch.tensor([127.0, 0.5, -0.5, 1.5, 2.49, 0.0])
    scale, stored = encodings.quantise_int8(values)
    assert scale == 1
    assert stored.tolist() == [127, 1, -1, 2, 2, 0]
    assert encodings.quantise_int8(torch.zeros(3))[0] == 1
    data = bytes(encodings.encode(values, encodings.Q8))
    assert data == struct.pack("<f6b", 1, 127, 1, -1, 2, 2, 0)


def test_aprq4_packs_even_elements_into_low_nibbles() -> None:
    values = torch.tensor([7.0, -7.0, 0.0, 3.0])
    data = bytes(encodings.encode(values, encodings.Q4))
    assert data == struct.pack("<e", 1) + bytes([0x1F, 0xB8]) + b"\x88" * 14
    assert (
        encodings.decode(memoryview(bytearray(data)), encodings.Q4, 4).tolist() == values.tolist()
    )
    tiny = torch.full((32,), 1e-5)  # whose scale other readers take for zero
    assert bytes(encodings.encode(tiny, encodings.Q4))[2:] == b"\x88" * 16


@pytest.mark.parametrize(
    ("name", "quantize", "target"),
    [
        ("m.apr", None, Target.APR_V2),
        ("m.apr", "int8", Target.APR_V1),
        ("m.pt", None, Target.OPENAI),
        ("m", "f16", Target.HF),
    ],
)
def test_the_name_of_the_target_says_its_format(
    name: str, quantize: str | None, target: Target
) -> None:
    assert target_of(Path(name), quantize) is target


@pytest.mark.parametrize(
    ("target", "quantize", "message"),
    [
        (Target.APR_V1, "f16", "layout 1 of .apr cannot be f16, only int8"),
        (Target.APR_V2, "int8", "layout 2 of .apr cannot be int8, only f16 or q8 or q4"),
        (Target.HF, "q8", "hf weights cannot be q8, only f16"),
    ],
)
def test_a_quantisation_that_the_format_lacks_is_refused_and_leaves_no_trace(
    tmp_path: Path, folder: Path, target: Target, quantize: str, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        convert(load_checkpoint(folder), tmp_path / "made", target, quantize=quantize)
    assert not list(tmp_path.iterdir())


def test_openai_cannot_say_how_wide_a_feed_forward_is(tmp_path: Path, hf_folder: Path) -> None:
    with pytest.raises(CheckpointError, match="n_audio_ffn is 40"):
        convert(load_checkpoint(hf_folder), tmp_path / "m.pt", Target.OPENAI)
    assert not (tmp_path / "m.pt").exists()


@pytest.mark.parametrize("target", [*APR_TARGETS, Target.OPENAI])
def test_a_failure_in_the_middle_leaves_no_trace(
    tmp_path: Path, folder: Path, target: Target
) -> None:
    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(load_checkpoint(folder), tmp_path / "made", target, progress=stop)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("target", list(Target))
def test_progress_is_told_tensor_by_tensor(tmp_path: Path, folder: Path, target: Target) -> None:
    source, steps = load_checkpoint(folder), list[int]()
    convert(source, tmp_path / "made", target, progress=steps.append)
    assert len(steps) == len(source.state.tensors)
    assert sum(steps) == sum(torch.Size(t.shape).numel() for t in source.state.tensors.values())


def test_nothing_is_replaced_unasked(tmp_path: Path, folder: Path) -> None:
    source, path = load_checkpoint(folder), tmp_path / "m.apr"
    path.write_text("mine")
    with pytest.raises(CheckpointError, match="exists already"):
        convert(source, path, Target.APR_V2)
    assert path.read_text() == "mine"
    convert(source, path, Target.APR_V2, overwrite=True)
    assert load_checkpoint(path).config == source.config
    with pytest.raises(CheckpointError, match="not empty"):
        convert(source, tmp_path, Target.HF, overwrite=True)
    with pytest.raises(CheckpointError, match="there is no folder"):
        convert(source, tmp_path / "no" / "m.apr", Target.APR_V2)


def test_a_file_of_openais_with_our_content_damaged_is_refused(
    tmp_path: Path, folder: Path
) -> None:
    convert(load_checkpoint(folder), tmp_path / "m.pt", Target.OPENAI)
    content = torch.load(tmp_path / "m.pt", weights_only=True)
    own = json.loads(content["earshot"])
    for damaged in ("{", "[]", json.dumps(own | {"window_rounding_frames": "8"}), 5):
        torch.save(content | {"earshot": damaged}, tmp_path / "m.pt")
        with pytest.raises(CheckpointError, match="earshot"):
            load_checkpoint(tmp_path / "m.pt", offline=True)
