"""The data flow of a Whisper as a tree of boxes, with what stands in the file at hand.

Knows nothing about formats or drawing. FLOPs count the multiplications and additions of the matrix
products, convolutions and attention scores, two for each pair: of the encoder for one full window,
of the decoder for one token that sees a full context.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from service.inspection.opened import Opened
from service.inspection.stats import measure
from service.model.config import FRAMES_PER_POSITION, WhisperConfig

COMPONENTS = {
    "full": None, "all": None,
    "encoder": "encoder", "enc": "encoder",
    "decoder": "decoder", "dec": "decoder",
    "self_attn": "self_attn", "self-attn": "self_attn", "selfattn": "self_attn",
    "cross_attn": "cross_attn", "cross-attn": "cross_attn", "crossattn": "cross_attn",
    "encoder_attn": "cross_attn",
    "ffn": "ffn", "mlp": "ffn", "feedforward": "ffn",
}  # fmt: skip
"""What may be asked for -> the component; None is everything."""
_N_FREQS = 201
_PARTS = ("weight", "bias")


@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor of the file, by the file's name."""

    name: str
    shape: tuple[int, ...]
    encoding: str
    nbytes: int
    parameters: int


@dataclass(frozen=True, slots=True)
class Box:
    """One step of the flow, or a group of steps.

    Attributes:
        label: what it does, and the shape that leaves it; perhaps a second line.
        component: `encoder`, `decoder`, `self_attn`, `cross_attn`, `ffn`, or another word.
        layer: the tensors' prefix, of a box that stands for one layer.
        framed: whether it is drawn with a border.
        weights: of its own, without those of its children.
        missing: tensors that it needs and the file does not have.
        flops_per_window, flops_per_token: of its own.
        children: in the order of the flow.
    """

    label: str
    component: str
    layer: str | None = None
    framed: bool = False
    weights: tuple[Weight, ...] = ()
    missing: tuple[str, ...] = ()
    flops_per_window: int = 0
    flops_per_token: int = 0
    children: tuple[Box, ...] = field(default=())

    def walk(self) -> Iterator[Box]:
        """Yield this box and all below it."""
        yield self
        for child in self.children:
            yield from child.walk()

    @property
    def all_weights(self) -> tuple[Weight, ...]:
        """The weights of this box and all below it."""
        return tuple(weight for box in self.walk() for weight in box.weights)

    def total(self, what: str) -> int:
        """Return the sum of a figure over this box and all below it."""
        return sum(getattr(box, what) for box in self.walk())

    def to_json(self) -> dict[str, Any]:
        """Return nested plain values; figures include what is below."""
        weights = self.all_weights
        return {
            "label": self.label.replace("\n", ", "),
            "component": self.component,
            "layer": self.layer,
            "parameters": sum(weight.parameters for weight in weights),
            "size_bytes": sum(weight.nbytes for weight in weights),
            "dtypes": encodings(weights),
            "flops_per_window": self.total("flops_per_window"),
            "flops_per_token": self.total("flops_per_token"),
            "missing": [name for box in self.walk() for name in box.missing],
            "weights": [weight.name for weight in self.weights],
            "children": [child.to_json() for child in self.children],
        }


def encodings(weights: Iterable[Weight]) -> list[str]:
    """Return how weights are stored, each kind once, the most bytes first."""
    sizes: dict[str, int] = {}
    for weight in weights:
        sizes[weight.encoding] = sizes.get(weight.encoding, 0) + weight.nbytes
    return sorted(sizes, key=lambda name: (-sizes[name], name))


class UnknownPart(ValueError):
    """A component or layer was asked for that there is none of; the message names what there is."""


def build_flow(model: Opened) -> tuple[Box, ...]:
    """Return the whole flow of a model file, every layer by itself.

    Raises:
        ValueError: if this is no Whisper.
    """
    if model.config is None:
        raise ValueError(model.problem or "no Whisper")
    return _Builder(model, model.config).boxes()


def choose(flow: tuple[Box, ...], component: str, layer: str | None) -> tuple[Box, ...]:
    """Return the parts of a flow that were asked for, and the boxes around them.

    Args:
        flow: of `build_flow`.
        component: one of `COMPONENTS`, in any case.
        layer: a layer's number, or a part of a prefix such as `decoder.layers.3`.

    Raises:
        UnknownPart: if there is no such component or layer.
    """
    if component.lower() not in COMPONENTS:
        names = ", ".join(dict.fromkeys(c or "full" for c in COMPONENTS.values()))
        raise UnknownPart(f"no component {component!r}; there are {names}")
    wanted = COMPONENTS[component.lower()]
    if layer is not None:
        prefixes = [box.layer for top in flow for box in top.walk() if box.layer]
        if not any(_is_layer(prefix, layer) for prefix in prefixes):
            raise UnknownPart(f"no layer {layer!r}; there are {', '.join(prefixes)}")
        flow = _kept(flow, lambda box: box.layer is not None and _is_layer(box.layer, layer))
    if wanted is not None:
        flow = _kept(flow, lambda box: box.component == wanted)
    return flow


def _is_layer(prefix: str, asked: str) -> bool:
    return prefix.rpartition(".")[2] == asked if asked.isdecimal() else asked in prefix


def _kept(boxes: tuple[Box, ...], wanted: Callable[[Box], bool]) -> tuple[Box, ...]:
    """Return the boxes that are wanted, whole, and those around them."""
    kept = []
    for box in boxes:
        if wanted(box):
            kept.append(box)
        elif children := _kept(box.children, wanted):
            kept.append(replace(box, children=children, weights=(), missing=(),
                                flops_per_window=0, flops_per_token=0))  # fmt: skip
    return tuple(kept)


def weight_stats(model: Opened, flow: tuple[Box, ...]) -> dict[str, dict[str, Any]]:
    """Return name -> figures of every weight in a flow, after dequantisation."""
    names = [weight.name for box in flow for weight in box.all_weights]
    return {name: measure(model.tensors.read(name)).to_json() for name in names}


class _Builder:
    """Makes the boxes of one model."""

    def __init__(self, model: Opened, config: WhisperConfig) -> None:
        self._model = model
        self._c = config

    def boxes(self) -> tuple[Box, ...]:
        c = self._c
        frames = c.n_audio_ctx * FRAMES_PER_POSITION
        return (
            Box("INPUT audio [N, samples], 16 kHz mono", "input", framed=True),
            Box(
                f"mel_spectrogram() [N, {c.n_mels}, T], T up to {frames}, 10 ms a frame", "mel",
                framed=True, flops_per_window=2 * c.n_mels * _N_FREQS * frames,
            ),
            self._encoder(),
            Box(
                f"encoder_output [N, T', d_model] = [N, {c.n_audio_ctx}, {c.d_model}]\n"
                "used as K,V for cross-attention", "encoder_output", framed=True,
            ),
            self._decoder(),
            Box("OUTPUT tokens [N, seq_len]", "output", framed=True),
        )  # fmt: skip

    def _encoder(self) -> Box:
        c, t, d = self._c, self._c.n_audio_ctx, self._c.d_model
        conv = 2 * 3 * d * t
        layers = tuple(self._encoder_layer(i) for i in range(c.n_audio_layer))
        return Box("ENCODER", "encoder", framed=True, children=(
            self._op(f"conv1 + gelu [N, {d}, T]", "conv", "encoder.conv1",
                     per_window=conv * c.n_mels * FRAMES_PER_POSITION),
            self._op(f"conv2 (stride 2) + gelu [N, {d}, T']", "conv", "encoder.conv2",
                     per_window=conv * d),
            self._op(f"+ positional embedding [{t}, {d}]", "embedding", "encoder.embed_positions",
                     parts=("weight",)),
            Box(f"Encoder Layers x {c.n_audio_layer}", "layers", framed=True, children=layers),
            self._op("ln_post", "norm", "encoder.layer_norm"),
        ))  # fmt: skip

    def _encoder_layer(self, i: int) -> Box:
        c, t, d, at = self._c, self._c.n_audio_ctx, self._c.d_model, f"encoder.layers.{i}"
        heads = f"{c.n_audio_head} heads of {d // c.n_audio_head}"
        return Box(f"layer {i}", "layer", at, children=(
            self._op("ln1", "norm", f"{at}.self_attn_layer_norm"),
            self._attention(f"self_attn, {heads}", "self_attn", f"{at}.self_attn",
                            per_window=8 * d * d * t + 4 * t * t * d),
            Box("+ residual", "residual"),
            self._op("ln2", "norm", f"{at}.final_layer_norm"),
            self._op(f"ffn {d} -> {c.n_audio_ffn} -> {d}, gelu", "ffn", f"{at}.fc1", f"{at}.fc2",
                     per_window=4 * d * c.n_audio_ffn * t),
            Box("+ residual", "residual"),
        ))  # fmt: skip

    def _decoder(self) -> Box:
        c, d = self._c, self._c.d_model
        layers = tuple(self._decoder_layer(i) for i in range(c.n_text_layer))
        head = self._op(
            "LM head" if c.separate_head else "LM head, the token embedding transposed",
            "head",
            "proj_out",
            parts=("weight",),
            prefix="",
            per_token=2 * d * c.n_vocab,
        )
        return Box("DECODER", "decoder", framed=True, children=(
            Box("tokens [N, seq_len]", "input"),
            self._op(f"token embedding + positional embedding\n[{c.n_vocab}, {d}] + "
                     f"[{c.n_text_ctx}, {d}]", "embedding", "decoder.embed_tokens",
                     "decoder.embed_positions", parts=("weight",)),
            Box(f"Decoder Layers x {c.n_text_layer}", "layers", framed=True, children=layers),
            self._op("ln_post", "norm", "decoder.layer_norm"),
            head if c.separate_head else replace(head, missing=()),
            Box(f"logits [N, seq_len, vocab] = [N, seq_len, {c.n_vocab}]", "output"),
        ))  # fmt: skip

    def _decoder_layer(self, i: int) -> Box:
        c, t, d, at = self._c, self._c.n_audio_ctx, self._c.d_model, f"decoder.layers.{i}"
        heads = f"{c.n_text_head} heads of {d // c.n_text_head}"
        return Box(f"layer {i}", "layer", at, children=(
            self._op("ln1", "norm", f"{at}.self_attn_layer_norm"),
            self._attention(f"self_attn causal, {heads}", "self_attn", f"{at}.self_attn",
                            per_token=8 * d * d + 4 * c.n_text_ctx * d),
            Box("+ residual", "residual"),
            self._op("ln2", "norm", f"{at}.encoder_attn_layer_norm"),
            self._attention(f"cross_attn, {heads}\nQ from decoder; K,V from encoder_output",
                            "cross_attn", f"{at}.encoder_attn", per_token=4 * d * d + 4 * t * d,
                            per_window=4 * d * d * t),
            Box("+ residual", "residual"),
            self._op("ln3", "norm", f"{at}.final_layer_norm"),
            self._op(f"ffn {d} -> {c.n_text_ffn} -> {d}, gelu", "ffn", f"{at}.fc1", f"{at}.fc2",
                     per_token=4 * d * c.n_text_ffn),
            Box("+ residual", "residual"),
        ))  # fmt: skip

    def _attention(
        self, label: str, component: str, at: str, *, per_window: int = 0, per_token: int = 0
    ) -> Box:
        parts = [f"{at}.{part}_proj" for part in ("q", "k", "v", "out")]
        box = self._op(label, component, *parts, per_window=per_window, per_token=per_token)
        missing = tuple(name for name in box.missing if not name.endswith("k_proj.bias"))
        return replace(box, missing=missing)

    def _op(
        self,
        label: str,
        component: str,
        *modules: str,
        parts: tuple[str, ...] = _PARTS,
        prefix: str = "model.",
        per_window: int = 0,
        per_token: int = 0,
    ) -> Box:
        weights, missing = [], []
        for name in (f"{module}.{part}" for module in modules for part in parts):
            stored = self._model.names.get(prefix + name)
            if stored is None:
                missing.append(name)
            else:
                weights.append(self._weight(stored))
        return Box(label, component, weights=tuple(weights), missing=tuple(missing),
                   flops_per_window=per_window, flops_per_token=per_token)  # fmt: skip

    def _weight(self, name: str) -> Weight:
        info = self._model.tensors.infos[name]
        count = 1
        for extent in info.shape:
            count *= extent
        return Weight(name, info.shape, info.encoding, info.nbytes, count)
