"""A model's dimensions from the shapes of its tensors, for files that do not spell them out.

Shapes are right; what a file says beside them is taken where shapes are silent (heads), and
reported where it contradicts them. Knows nothing about formats.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from service.checkpoints.tensors import TensorInfo
from service.errors import CheckpointError
from service.model.config import WhisperConfig

HEAD_WIDTH = 64
"""Of every released Whisper."""
_DEFAULTS = {"n_mels": 80, "n_audio_ctx": 1500, "n_text_ctx": 448}
_WIDTH = ("n_audio_state", "n_text_state", "hidden_size", "hidden_dim", "d_model", "n_embd")
_SAID = {  # dimension -> keys that mean it, in any dialect of the metadata
    "n_mels": ("n_mels", "num_mel_bins"),
    "n_audio_ctx": ("n_audio_ctx", "max_source_positions"),
    "n_text_ctx": ("n_text_ctx", "max_target_positions"),
    "n_vocab": ("n_vocab", "vocab_size"),
    "d_model": _WIDTH,
    "n_audio_layer": ("n_audio_layer", "encoder_layers"),
    "n_text_layer": ("n_text_layer", "decoder_layers"),
    "n_audio_ffn": ("encoder_ffn_dim",),
    "n_text_ffn": ("decoder_ffn_dim",),
}
_EITHER_DEPTH = ("num_layers", "n_layers", "num_hidden_layers", "n_layer")
"""The decoder's depth for one writer, the encoder's for another."""
_HEADS = ("num_heads", "n_heads", "num_attention_heads", "n_head")
_AUDIO_HEADS = ("n_audio_head", "encoder_attention_heads")
_TEXT_HEADS = ("n_text_head", "decoder_attention_heads", *_HEADS)
_LAYER = re.compile(r"model\.(encoder|decoder)\.layers\.(\d+)\.")
_MAX_LAYERS = 256
_MAX_SAID = 1 << 31


@dataclass(frozen=True, slots=True)
class Dims:
    """What shapes and metadata come to.

    Attributes:
        config: the dimensions.
        assumed: those that nothing in the file says.
        contradictions: sentences about metadata that the shapes deny.
    """

    config: WhisperConfig
    assumed: tuple[str, ...]
    contradictions: tuple[str, ...]


def dims_from_tensors(
    infos: Mapping[str, TensorInfo], said: Mapping[str, Any], filter_rows: int | None = None
) -> Dims:
    """Return the dimensions of a Whisper, complete or with tensors missing.

    Args:
        infos: Hugging Face's names -> shapes.
        said: metadata of the file; keys that mean nothing here are passed over.
        filter_rows: of the embedded filterbank.

    Raises:
        CheckpointError: without the file's name, if this is no encoder-decoder.
    """
    shaped = _shaped(infos)
    shaped_mels = {} if filter_rows is None else {"n_mels": filter_rows}
    stated = {name: _said(said, keys) for name, keys in _SAID.items()}
    known = {name: value for name, value in stated.items() if value} | shaped_mels | shaped
    missing = [name for name in ("d_model", "n_audio_ffn", "n_text_ffn") if name not in known]
    if missing or not (shaped["n_audio_layer"] and shaped["n_text_layer"]):
        raise CheckpointError(
            "no encoder-decoder of Whisper's kind: expected tensors such as "
            "encoder.layers.0.fc1.weight, decoder.layers.0.fc1.weight and "
            "decoder.embed_tokens.weight"
        )
    heads, assumed_heads = _heads(said, known["d_model"])
    assumed = [name for name in _DEFAULTS if name not in known] + assumed_heads
    rounding = {"window_rounding_frames": _said(said, ("window_rounding_frames",)) or 0}
    values: dict[str, Any] = {**_DEFAULTS, "n_vocab": 1, **known, **heads, **rounding}
    try:
        config = WhisperConfig(**values)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    if "n_vocab" not in known:
        assumed.append("n_vocab")
    return Dims(config, tuple(assumed), tuple(_contradictions(said, shaped | shaped_mels)))


def _shaped(infos: Mapping[str, TensorInfo]) -> dict[str, int]:
    """Return the dimensions that shapes show."""
    found = {f"n_{side}_layer": _depth(infos, half) for side, half in _SIDES}
    places = (
        ("d_model", "decoder.embed_tokens.weight", 1),
        ("d_model", "decoder.layer_norm.weight", 0),
        ("d_model", "decoder.layers.0.self_attn_layer_norm.weight", 0),
        ("d_model", "encoder.conv1.weight", 0),
        ("n_mels", "encoder.conv1.weight", 1),
        ("n_audio_ctx", "encoder.embed_positions.weight", 0),
        ("n_text_ctx", "decoder.embed_positions.weight", 0),
        ("n_vocab", "decoder.embed_tokens.weight", 0),
        ("n_audio_ffn", "encoder.layers.0.fc1.weight", 0),
        ("n_text_ffn", "decoder.layers.0.fc1.weight", 0),
    )
    for dimension, name, axis in places:
        info = infos.get(f"model.{name}")
        if info is not None and len(info.shape) > axis and dimension not in found:
            found[dimension] = info.shape[axis]
    return found


_SIDES = (("audio", "encoder"), ("text", "decoder"))


def _depth(infos: Mapping[str, TensorInfo], half: str) -> int:
    matches = (_LAYER.match(name) for name in infos)
    depth = 1 + max((int(m[2]) for m in matches if m and m[1] == half), default=-1)
    if depth > min(_MAX_LAYERS, len(infos)):
        raise CheckpointError(f"a tensor of {half} layer {depth - 1}, but not of those before it")
    return depth


def _said(said: Mapping[str, Any], keys: Iterable[str]) -> int | None:
    """Return the first of these keys that is a positive number."""
    for key in keys:
        value = said.get(key)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < _MAX_SAID:
            return value
    return None


def _heads(said: Mapping[str, Any], d_model: int) -> tuple[dict[str, int], list[str]]:
    """Return the heads of both halves, and which of them are a guess by the usual width."""
    guess = max(d_model // HEAD_WIDTH, 1)
    audio, text = _said(said, _AUDIO_HEADS), _said(said, _TEXT_HEADS)
    heads = {"n_audio_head": audio or text or guess, "n_text_head": text or audio or guess}
    return heads, [] if audio or text else list(heads)


def _contradictions(said: Mapping[str, Any], shaped: Mapping[str, int]) -> Iterable[str]:
    for dimension, keys in _SAID.items():
        for key in keys:
            value = said.get(key)
            if value is not None and dimension in shaped and value != shaped[dimension]:
                yield f"{key} says {value!r}, the shapes of the tensors {shaped[dimension]}"
    depths = {shaped["n_audio_layer"], shaped["n_text_layer"]}
    for key in _EITHER_DEPTH:
        value = said.get(key)
        if value is not None and value not in depths:
            expected = " or ".join(map(str, sorted(depths)))
            yield f"{key} says {value!r}, the names of the tensors {expected}"
