"""`.apr` files as models: the same weights and tokens as from any other format, or one sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from service.checkpoints import CheckpointFormat, build_model, load_checkpoint
from service.checkpoints.checkpoint import default_generation
from service.errors import CheckpointError
from service.model import WhisperConfig, WhisperModel
from service.text import WhisperTokenizer
from tests.unit.checkpoints.apr_bytes import V2, vocabulary_section
from tests.unit.checkpoints.apr_models import tensors_of, tokens_of, v1_of, v2_of

Edit = Callable[[V2], None]


def _load(tmp_path: Path, content: bytes, tokenizer: str | None = None) -> Any:
    path = tmp_path / "model.apr"
    path.write_bytes(content)
    return load_checkpoint(path, tokenizer=tokenizer, offline=True)


def _refusal(tmp_path: Path, content: bytes) -> str:
    with pytest.raises(CheckpointError) as caught:
        _load(tmp_path, content)
    assert caught.value.message.startswith(str(tmp_path / "model.apr"))
    assert "\n" not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize("layout", ["v1", "v2", "v2 with model."])
def test_a_file_gives_the_weights_and_tokens_of_the_folder(
    tmp_path: Path, model: WhisperModel, tokenizer: WhisperTokenizer, hf_folder: Path, layout: str
) -> None:
    if layout == "v1":
        content = v1_of(model, tokenizer).build()
    else:
        content = v2_of(model, tokenizer, prefix="model." * ("model." in layout)).build()
    found, folder = _load(tmp_path, content), load_checkpoint(hf_folder)
    assert found.config == folder.config == model.config
    assert found.format == (CheckpointFormat.APR_V1 if layout == "v1" else CheckpointFormat.APR_V2)
    assert found.generation == default_generation(model.config, tokenizer)
    assert found.state.keys() == folder.state.keys()
    assert all(torch.equal(found.state[name], folder.state[name]) for name in folder.state)
    ids = range(tokenizer.n_vocab)
    assert [found.tokenizer.token_text(i) for i in ids] == [tokenizer.token_text(i) for i in ids]
    assert found.tokenizer.languages == tokenizer.languages
    text = " ümläut 日本 <|0.00|>"
    assert found.tokenizer.encode(text) == tokenizer.encode(text)
    mel, tokens = torch.randn(1, 80, 100), torch.tensor([[3, 1, 4]])
    assert torch.equal(build_model(found)(mel, tokens), build_model(folder)(mel, tokens))


def test_a_model_shares_no_memory_with_its_file(
    tmp_path: Path, model: WhisperModel, tokenizer: WhisperTokenizer
) -> None:
    built = build_model(_load(tmp_path, v2_of(model, tokenizer).build()))
    (tmp_path / "model.apr").unlink()
    assert torch.equal(built.encoder.conv1.weight, model.encoder.conv1.weight)


def test_names_that_the_first_layout_cuts_are_completed(
    tmp_path: Path, make_tokenizer: Callable[..., WhisperTokenizer]
) -> None:
    tokenizer = make_tokenizer()
    model = WhisperModel(WhisperConfig(80, 20, 8, 1, 1, 8, tokenizer.n_vocab, 16, 1, 11, 8))
    layer = model.decoder.get_submodule("blocks.10.cross_attn_ln")
    torch.nn.init.normal_(layer.get_parameter("weight"))
    content = v1_of(model.requires_grad_(False), tokenizer).build()
    assert b"decoder.layers.10.encoder_attn_layer_norm.weigh\0" in content
    found = _load(tmp_path, content)
    name = "decoder.blocks.10.cross_attn_ln.weight"
    assert torch.equal(found.state[name], model.state_dict()[name])


@pytest.mark.parametrize("prefix", ["", "model."])
def test_an_output_projection_is_the_token_embedding_or_one_of_its_own(
    tmp_path: Path, model: WhisperModel, tokenizer: WhisperTokenizer, prefix: str
) -> None:
    v2 = v2_of(model, tokenizer, prefix=prefix)
    head = tensors_of(model)["decoder.embed_tokens.weight"]
    v2.tensors["proj_out.weight"] = (tuple(head.shape), 0, head.numpy().tobytes())
    assert _load(tmp_path, v2.build()).config == model.config
    other = 2 * head
    v2.tensors["proj_out.weight"] = (tuple(head.shape), 0, other.numpy().tobytes())
    found = _load(tmp_path, v2.build())
    assert found.config == replace(model.config, separate_head=True)
    mel, tokens = torch.randn(1, 80, 100), torch.tensor([[3, 1, 4]])
    assert torch.allclose(build_model(found)(mel, tokens), 2 * model(mel, tokens), atol=1e-4)


def test_an_output_projection_of_another_shape_is_refused(
    tmp_path: Path, model: WhisperModel, tokenizer: WhisperTokenizer
) -> None:
    v2 = v2_of(model, tokenizer)
    v2.tensors["proj_out.weight"] = ((3, 24), 0, bytes(3 * 24 * 4))
    assert "wrong shape: proj_out.weight" in _refusal(tmp_path, v2.build())


def test_the_first_layouts_head_is_its_token_embedding_whatever_else_it_holds(
    tmp_path: Path, model: WhisperModel, tokenizer: WhisperTokenizer
) -> None:
    v1 = v1_of(model, tokenizer)
    head = 2 * tensors_of(model)["decoder.embed_tokens.weight"]
    v1.tensors = {**v1.tensors, "proj_out.weight": (tuple(head.shape), head.numpy().tobytes())}
    assert _load(tmp_path, v1.build()).config == model.config


def test_the_vocabulary_may_stand_in_the_metadata(
    tmp_path: Path, model: WhisperModel, tokenizer: WhisperTokenizer
) -> None:
    texts = [tokenizer.token_text(i) for i in range(tokenizer.n_vocab)]
    metadata = {"tokenizer.vocabulary": texts, "tokenizer.merges": []}
    found = _load(tmp_path, v2_of(model, None, metadata).build())
    assert found.tokenizer.encode("día") == tokenizer.encode("día")
    assert found.tokenizer.sot == tokenizer.sot


def test_a_damaged_vocabulary_is_known_and_another_can_be_named(
    tmp_path: Path, model: WhisperModel, tokenizer: WhisperTokenizer
) -> None:
    tokens = tokens_of(tokenizer)
    tokens[0xA1] = b"\x21"  # what the converter writes for U+00A1
    v2 = v2_of(model, None)
    section = vocabulary_section(tokens)
    v2.tensors["__vocab__"] = ((len(section),), 7, section)
    message = _refusal(tmp_path, v2.build())
    assert "its vocabulary is damaged: the tokens 33 and 161 are the same" in message
    assert "EARSHOT_TOKENIZER" in message
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
    found = _load(tmp_path, v2.build(), str(tmp_path / "tokenizer.json"))
    assert found.tokenizer.encode("¡") == tokenizer.encode("¡")


def test_an_empty_vocabulary_is_refused(tmp_path: Path, model: WhisperModel) -> None:
    v2 = v2_of(model, None, {"tokenizer.vocabulary": []})
    assert "the vocabulary is empty" in _refusal(tmp_path, v2.build())


def test_without_a_vocabulary_a_tokenizer_must_be_named(
    tmp_path: Path, model: WhisperModel
) -> None:
    message = _refusal(tmp_path, v2_of(model, None).build())
    assert "the file holds no tokenizer" in message


def test_heads_come_from_the_metadata_or_are_64_wide(
    tmp_path: Path, make_tokenizer: Callable[..., WhisperTokenizer]
) -> None:
    tokenizer = make_tokenizer()
    model = WhisperModel(WhisperConfig(80, 20, 128, 4, 1, 8, tokenizer.n_vocab, 16, 8, 1, 8))
    v2 = v2_of(model.requires_grad_(False), tokenizer)
    said = _load(tmp_path, v2.build()).config
    assert (said.n_audio_head, said.n_text_head) == (4, 8)
    v2.metadata = {"rope_theta": 10000.0, "num_heads": None}
    silent = _load(tmp_path, v2.build()).config
    assert (silent.n_audio_head, silent.n_text_head) == (2, 2)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"n_mels": 128}, "n_mels says 128, the shapes of the tensors 80"),
        ({"n_audio_ctx": 1500}, "n_audio_ctx says 1500, the shapes of the tensors 50"),
        ({"n_text_ctx": 448}, "n_text_ctx says 448, the shapes of the tensors 32"),
        ({"hidden_size": "24"}, "hidden_size says '24', the shapes of the tensors 24"),
        ({"d_model": 384}, "d_model says 384"),
        ({"vocab_size": 51865}, "vocab_size says 51865"),
        ({"n_audio_layer": 4}, "n_audio_layer says 4, the shapes of the tensors 2"),
        ({"num_layers": 4}, "num_layers says 4, the names of the tensors 2 or 3"),
        ({"num_heads": 5}, "n_text_head=5 does not divide"),
    ],
)
def test_metadata_that_contradicts_the_tensors_is_refused(
    tmp_path: Path,
    model: WhisperModel,
    tokenizer: WhisperTokenizer,
    metadata: dict[str, Any],
    message: str,
) -> None:
    assert message in _refusal(tmp_path, v2_of(model, tokenizer, metadata).build())


def _drop_conv(v2: V2) -> None:
    del v2.tensors["encoder.conv1.weight"]


def _twice(v2: V2) -> None:
    v2.tensors["model.encoder.conv1.bias"] = v2.tensors["encoder.conv1.bias"]


def _far_layer(v2: V2) -> None:
    v2.tensors["encoder.layers.99999999.fc1.bias"] = v2.tensors["encoder.conv1.bias"]


def _quantised(v2: V2) -> None:
    v2.tensors["decoder.layers.0.fc1.weight"] = ((28, 256), 12, bytes(28 * 144))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_drop_conv, "missing tensors: model.encoder.conv1.weight (expected 24x80x3)"),
        (_twice, "encoder.conv1.bias and model.encoder.conv1.bias are the same tensor"),
        (_far_layer, "a tensor of encoder layer 99999999"),
        (_quantised, "wrong shape: model.decoder.layers.0.fc1.weight"),
        (lambda v2: v2.tensors.clear(), "no encoder-decoder of Whisper's kind"),
    ],
)
def test_tensors_that_do_not_make_a_whisper_are_named(
    tmp_path: Path, model: WhisperModel, tokenizer: WhisperTokenizer, edit: Edit, message: str
) -> None:
    v2 = v2_of(model, tokenizer)
    edit(v2)
    assert message in _refusal(tmp_path, v2.build())


def test_a_wrong_checksum_is_refused_with_both_values(
    tmp_path: Path, model: WhisperModel, tokenizer: WhisperTokenizer
) -> None:
    content = bytearray(v2_of(model, tokenizer).build())
    content[-100] ^= 0xFF
    message = _refusal(tmp_path, bytes(content))
    assert "damaged: the CRC32 of the file is 0x" in message
    assert "the file says 0x" in message


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("test.apr", "missing tensors: model.encoder.conv1.weight"),
        ("v1_bad_crc.apr", "the CRC32 of the file is"),
        ("v2_bad_header_crc.apr", "the CRC32 of the header is"),
        ("v1_truncated.apr", "truncated"),
        ("v2_truncated.apr", "truncated"),
    ],
)
def test_the_fixtures_that_cannot_be_served_say_why(shared: Path, name: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(shared / "fixtures/apr" / name, offline=True)


@pytest.mark.parametrize(
    "name",
    ["v1_f32", "v1_int8", "v2_f32", "v2_f16", "v2_q8", "v2_q4", "v2_import_stripped_projout_f32"],
)
def test_the_other_fixtures_are_whole_models(shared: Path, name: str) -> None:
    checkpoint = load_checkpoint(shared / f"fixtures/apr/{name}.apr", offline=True)
    assert checkpoint.config.n_text_head == (1 if "import" in name else 2)
    assert checkpoint.tokenizer.encode(" the") == [262]
    assert checkpoint.tokenizer.eot == 300
    logits = build_model(checkpoint)(torch.randn(1, 80, 300), torch.tensor([[301, 302, 402]]))
    assert logits.isfinite().all()
