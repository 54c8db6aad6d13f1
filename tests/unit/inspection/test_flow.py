"""The drawn data flow: every step in its order, true figures, borders in one column."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from wcwidth import wcswidth

from service.checkpoints import save_hf_folder
from service.checkpoints.opened import ModelFile, open_model
from service.inspection.flow import Box, UnknownPart, build_flow, choose, weight_stats
from service.inspection.flow_text import ASCII, UNICODE, draw, scaled
from service.model import WhisperConfig, WhisperModel
from service.text import WhisperTokenizer

ENCODER_LAYER = ("ln1", "self_attn", "+ residual", "ln2", "ffn", "+ residual")
DECODER_LAYER = (
    *("ln1", "self_attn causal", "+ residual", "ln2", "cross_attn", "Q from decoder"),
    *("K,V from encoder_output", "+ residual", "ln3", "ffn", "+ residual"),
)


def _rows(n_mels: int, d_model: int, layers: tuple[int, int], n_vocab: int) -> tuple[str, ...]:
    return (
        "INPUT audio [N, samples]",
        f"mel_spectrogram() [N, {n_mels}, T]",
        "ENCODER",
        f"Encoder Layers x {layers[0]}",
        *ENCODER_LAYER,
        "encoder_output [N, T', d_model]",
        f", {d_model}]",
        "used as K,V for cross-attention",
        "DECODER",
        "tokens [N, seq_len]",
        "token embedding + positional embedding",
        f"Decoder Layers x {layers[1]}",
        *DECODER_LAYER,
        "LM head",
        f"logits [N, seq_len, vocab] = [N, seq_len, {n_vocab}]",
        "OUTPUT tokens",
    )


def _assert_in_order(text: str, rows: tuple[str, ...]) -> None:
    at = 0
    for row in rows:
        found = text.find(row, at)
        assert found >= 0, f"{row!r} is not after the row before it"
        at = found + len(row)


@pytest.fixture(scope="module")
def model(
    tmp_path_factory: pytest.TempPathFactory, make_tokenizer: Callable[..., WhisperTokenizer]
) -> ModelFile:
    tokenizer = make_tokenizer()
    config = WhisperConfig(128, 100, 48, 3, 2, 64, tokenizer.n_vocab, 32, 4, 3, 80)
    folder = tmp_path_factory.mktemp("models") / "日本語"
    state = WhisperModel(config).requires_grad_(False).state_dict()
    save_hf_folder(folder, state, config, tokenizer=tokenizer, dtype=torch.float16)
    return open_model(folder)


def test_every_row_of_the_drawing_model_is_there_in_order(shared: Path) -> None:
    flow = build_flow(open_model(shared / "fixtures/apr/test.apr"))
    text = "\n".join(draw(flow))
    _assert_in_order(text, _rows(80, 64, (4, 4), 600))
    assert "not in this file: encoder.conv1.weight, encoder.conv1.bias" in text
    assert "2 heads of 32" in text


def test_every_row_of_a_whole_model_is_there_in_order(model: ModelFile) -> None:
    text = "\n".join(draw(build_flow(model)))
    assert model.config is not None
    _assert_in_order(text, _rows(128, 48, (2, 3), model.config.n_vocab))
    assert "3 heads of 16" in text
    assert "4 heads of 12" in text
    assert "not in this file" not in text


@pytest.mark.parametrize("characters", [UNICODE, ASCII])
@pytest.mark.parametrize("layer", [None, "2"])
def test_borders_stand_in_one_column(model: ModelFile, characters: Any, layer: str | None) -> None:
    lines = draw(choose(build_flow(model), "full", layer), characters)
    boxed = [line for line in lines if not line.startswith(" ")]
    assert len({wcswidth(line) for line in boxed}) == 1
    for line in boxed:
        assert line[0] in (characters.vertical, *characters.corners)
        assert line[-1] in (characters.vertical, *characters.corners)
    assert "\n".join(lines).isascii() == (characters is ASCII)


@pytest.mark.parametrize("characters", [UNICODE, ASCII])
@pytest.mark.parametrize("width", [50, 60, 80, 120])
def test_a_drawing_fits_the_terminal(model: ModelFile, characters: Any, width: int) -> None:
    flow = build_flow(model)
    lines = draw(flow, characters, width)
    boxed = [line for line in lines if not line.startswith(" ")]
    assert max(map(wcswidth, lines)) <= width
    assert len({wcswidth(line) for line in boxed}) == 1
    words = re.findall(r"\w+", "\n".join(draw(flow, characters)))
    assert sorted(re.findall(r"\w+", "\n".join(lines))) == sorted(words)


def test_flops_are_those_that_torch_counts(model: ModelFile) -> None:
    assert model.config is not None
    c, whisper = model.config, WhisperModel(model.config).requires_grad_(False).eval()

    def counted(run: Callable[[], object]) -> int:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            run()
        return int(counter.get_total_flops())

    _, mel, encoder, _, decoder, _ = build_flow(model)
    window = torch.zeros(1, c.n_mels, c.max_frames)
    assert counted(lambda: whisper.encoder(window)) == encoder.total("flops_per_window")
    encoded = torch.zeros(1, c.n_audio_ctx, c.d_model)
    for_window = decoder.total("flops_per_window")
    assert counted(lambda: whisper.decoder.cross_kv(encoded)) == for_window
    tokens = torch.zeros(1, c.n_text_ctx, dtype=torch.long)  # each sees as many as the last one
    for_tokens = c.n_text_ctx * decoder.total("flops_per_token")
    assert counted(lambda: whisper.decoder(tokens, encoded)) == for_tokens + for_window
    filters, power = torch.zeros(c.n_mels, 201), torch.zeros(201, c.max_frames)
    assert counted(lambda: filters @ power) == mel.total("flops_per_window")


def _find(flow: tuple[Box, ...], start: str) -> Box:
    return next(box for top in flow for box in top.walk() if box.label.startswith(start))


def test_the_figures_are_those_of_the_file(model: ModelFile) -> None:
    flow = build_flow(model)
    weights = [weight for box in flow for weight in box.all_weights]
    assert sorted(weight.name for weight in weights) == sorted(model.tensors.infos)
    assert sum(w.nbytes for w in weights) == sum(i.nbytes for i in model.tensors.infos.values())
    attention = _find(flow, "self_attn, 3 heads")
    assert sum(w.parameters for w in attention.weights) == 4 * 48 * 48 + 3 * 48
    assert {w.encoding for w in attention.weights} == {"F16"}
    linears, scores = 2 * 4 * 48 * 48 * 100, 2 * 2 * 100 * 100 * 48
    assert attention.flops_per_window == linears + scores
    assert _find(flow, "conv1").flops_per_window == 2 * 3 * 128 * 48 * 200
    assert _find(flow, "ffn 48 -> 80").flops_per_token == 2 * 2 * 48 * 80
    cross = _find(flow, "cross_attn")
    assert cross.flops_per_token == 2 * 2 * 48 * 48 + 2 * 2 * 100 * 48
    assert cross.flops_per_window == 2 * 2 * 48 * 48 * 100


def test_layers_that_differ_are_drawn_each(model: ModelFile) -> None:
    flow = build_flow(model)
    alike = "\n".join(draw(flow))
    assert alike.count("each layer") == 2
    names = dict(model.names)
    del names["model.decoder.layers.1.fc1.bias"]
    damaged = "\n".join(draw(build_flow(_with_names(model, names))))
    assert "each layer" in damaged  # the encoder's
    assert "layer 1" in damaged
    assert "not in this file: decoder.layers.1.fc1.bias" in damaged


def _with_names(model: ModelFile, names: dict[str, str]) -> ModelFile:
    return ModelFile(model.name, model.format, model.source, model.tensors, names, model.config)


@pytest.mark.parametrize(
    ("component", "there", "gone"),
    [
        ("encoder", "Encoder Layers", "DECODER"),
        ("DEC", "Decoder Layers", "ENCODER"),
        ("self_attn", "self_attn causal", "ffn"),
        ("cross_attn", "Q from decoder", "ENCODER"),
        ("mlp", "ffn 48 -> 64", "attn"),
    ],
)
def test_a_component_is_drawn_alone(
    model: ModelFile, component: str, there: str, gone: str
) -> None:
    text = "\n".join(draw(choose(build_flow(model), component, None)))
    assert there in text
    assert gone not in text


@pytest.mark.parametrize(("layer", "expected"), [("2", 1), ("1", 2), ("decoder.layers.0", 1)])
def test_a_layer_is_drawn_alone(model: ModelFile, layer: str, expected: int) -> None:
    flow = choose(build_flow(model), "self_attn", layer)
    text = "\n".join(draw(flow))
    assert len(re.findall(r"self_attn", text)) == expected
    shown = [weight.name for box in flow for weight in box.all_weights]
    assert len(shown) == 7 * expected  # four weights, and no bias of the key
    assert all(f".{layer[-1]}." in name for name in shown)


@pytest.mark.parametrize(
    ("component", "layer", "message"),
    [
        ("attention", None, "no component 'attention'; there are full, encoder, decoder"),
        ("full", "3", "no layer '3'; there are encoder.layers.0, "),
        ("full", "fc1", "no layer 'fc1'"),
    ],
)
def test_what_there_is_not_is_an_error_and_no_picture(
    model: ModelFile, component: str, layer: str | None, message: str
) -> None:
    with pytest.raises(UnknownPart, match=re.escape(message)):
        choose(build_flow(model), component, layer)


def test_stats_are_of_each_weight_that_is_shown(model: ModelFile) -> None:
    flow = choose(build_flow(model), "ffn", "decoder.layers.1")
    stats = weight_stats(model, flow)
    name = "model.decoder.layers.1.fc1.weight"
    assert len(stats) == 4
    values = model.tensors.read(name).double()
    assert stats[name]["mean"] == pytest.approx(values.mean().item())
    assert stats[name]["std"] == pytest.approx(values.std(correction=0).item())
    assert stats[name]["nan_count"] == 0


def test_the_tree_survives_json_and_adds_up(model: ModelFile) -> None:
    flow = [box.to_json() for box in build_flow(model)]
    assert json.loads(json.dumps(flow)) == flow
    encoder = flow[2]
    assert encoder["label"] == "ENCODER"
    layers = next(c for c in encoder["children"] if c["component"] == "layers")
    found = [layer["layer"] for layer in layers["children"]]
    assert found == ["encoder.layers.0", "encoder.layers.1"]
    assert layers["parameters"] == sum(layer["parameters"] for layer in layers["children"])
    assert encoder["size_bytes"] == sum(child["size_bytes"] for child in encoder["children"])


def test_what_is_no_whisper_cannot_be_drawn(tmp_path: Path) -> None:
    save_file({"model.layers.0.weight": torch.ones(2)}, tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match="no encoder-decoder of Whisper's kind"):
        build_flow(open_model(tmp_path / "m.safetensors"))


@pytest.mark.parametrize(
    ("n", "text"), [(0, "0 "), (999, "999 "), (1000, "1 k"), (999_999, "1 M"), (4.2e12, "4.2 T")]
)
def test_numbers_have_three_digits(n: float, text: str) -> None:
    assert scaled(n) == text
