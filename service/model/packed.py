"""Linears and attention on weights that are laid out once for this CPU.

oneDNN reads weights in blocks. `nn.Linear` hands it a matrix as it lies in memory, which is put
into blocks again at every call, or read at a fraction of the memory's speed; here that is done
once. A model is changed in place by `pack`, and can then be run, not trained or saved.

A row's result must not depend on its neighbours (docs/adr/0001-batch-invariance.md). oneDNN's
bfloat16 products have one order of summation for every number of rows, and sums of integers have
none to choose, so those need no rows for padding; the start-up probe checks it.

Knows nothing about requests.
"""

from __future__ import annotations

from ctypes import CDLL
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from service.model import compiled_encoder
from service.model.attention import Attend, CrossAttention, SelfAttention, attend
from service.model.blocks import blocks, in_blocks
from service.model.compiled import library
from service.model.compiled_attention import INTEGER_HEADS, attend_in_integers
from service.model.compiled_decoder import CompiledDecoder, fits
from service.model.compiled_encoder import CompiledEncoderBlock
from service.model.config import WhisperConfig
from service.model.encoder import EncoderBlock
from service.model.int8 import Int8Linear, int8_linear
from service.model.numerics import Numerics, has_tiles
from service.model.timing import is_clearly_faster
from service.model.whisper import WhisperModel

_QUERY_BLOCK = 250
"""Queries whose scores over 1500 keys are in the cache of a core together."""


class PackedLinear(nn.Module):
    """A linear in oneDNN's layout, in the dtype of its weight, with sums in float32.

    Args:
        weight: f32[n_out n_in].
        bias: f32[n_out], or None.
        dtype: to compute in.
        kept: multiples of how many rows are computed at once.

    Attributes:
        shape: (n_out, n_in).
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, kept: int = 0
    ) -> None:
        super().__init__()
        self.shape: tuple[int, ...] = tuple(weight.shape)
        self._dtype = dtype
        self._kept = kept
        self._weight: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.to(dtype), None)
        self._bias = None if bias is None else bias.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """[... n_in] in any dtype -> [... n_out] in the weight's."""
        return in_blocks(self._product, x.to(self._dtype), self._kept)

    def blocks(self, n_rows: int) -> list[int]:
        """Return in which numbers of rows it computes so many."""
        return blocks(n_rows, self._kept)

    def _product(self, rows: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(
            rows, self._weight, self._bias, "none", [], ""
        )
        return out


def attend_by_head(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention over all positions, one head and block of queries after the other.

    A block's scores stay in a core's cache, and its two products are large enough for the CPU's
    bfloat16 instructions, which `scaled_dot_product_attention` does not use on CPUs without tiles
    (AMX). The blocks depend on the number of positions alone.

    Shapes: query [b h q d], key and value [b h k d] -> [b h q d], a view of [b q h d].
    """
    n_windows, n_head, n_query, d_head = query.shape
    out = query.new_empty(n_windows, n_query, n_head, d_head).transpose(1, 2)
    query = (query * d_head**-0.5).contiguous()
    key, value = key.contiguous(), value.contiguous()
    for window in range(n_windows):
        for head in range(n_head):
            keys, values = key[window, head].t(), value[window, head]
            for first in range(0, n_query, _QUERY_BLOCK):
                block = slice(first, first + _QUERY_BLOCK)
                scores = torch.mm(query[window, head, block], keys)
                out[window, head, block] = torch.mm(scores.softmax(dim=-1), values)
    return out


def attend_fused(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """Attention over cached keys by torch's own kernel.

    With tiles (AMX) its products are in them, for one query too, and keys beyond a window's add
    exact zeros. Without, such keys change the last bits of a row, and it depends on the CPU whether
    it is faster than `service.model.attention.attend`.

    Shapes: query [b h q d], key and value [b h k d], bias [b 1 q k] (0 or -inf), -> [b h q d].
    """
    mask = None if bias is None else bias.to(key.dtype)
    return scaled_dot_product_attention(query.to(key.dtype), key, value, attn_mask=mask)


@torch.inference_mode(mode=False)
@torch.no_grad()
def pack(model: WhisperModel, numerics: Numerics) -> None:
    """Change a model in place so that it runs in these numerics; `plain` changes nothing.

    Each linear's own weights are let go as soon as they are packed, those of a compiled decoder
    once all of them are.
    """
    if not numerics.is_packed:
        return
    decoder = model.decoder
    head = decoder.token_embedding.weight if decoder.head is None else decoder.head
    if numerics.head == torch.int8:
        decoder.packed_head = int8_linear(head)
    else:
        decoder.packed_head = PackedLinear(head, None, numerics.head)
    decoder.head = None
    if numerics.decoder != torch.float32:
        _decode_rounded(model, numerics.decoder)
    _pack_blocks(model, numerics)
    _pack_linears(model, numerics, model.config.n_audio_ctx)
    model.numerics = numerics


def _pack_blocks(model: WhisperModel, numerics: Numerics) -> None:
    """Compute the encoder's blocks by what is compiled of them, or attend in another way."""
    of_encoder, config = model.encoder.blocks, model.config
    compiled = library() if numerics.encoder == torch.int8 else None
    if compiled is not None and not has_tiles() and compiled_encoder.fits(config):
        for at, block in enumerate(of_encoder):
            of_encoder[at] = CompiledEncoderBlock(compiled, cast("EncoderBlock", block))
        return
    attend_windows: Attend = scaled_dot_product_attention
    if numerics.encoder == torch.bfloat16 and not has_tiles():
        attend_windows = attend_by_head
    elif compiled is not None and config.d_model // config.n_audio_head in INTEGER_HEADS:
        attend_windows = partial(attend_in_integers, compiled)
    for block in of_encoder:
        cast("SelfAttention", block.attn).attend = attend_windows


def _decode_rounded(model: WhisperModel, weights: torch.dtype) -> None:
    """Keep the token embedding in it, and keys and values where that is bounded and invariant.

    Where the decoder is compiled, it is, with `weights` of this dtype. Without that, and without
    tiles, products of one query by keys in bfloat16 have a kernel of oneDNN for each number of
    windows and length of keys, and `attend_fused` gives other bits beside masked keys. So a
    window's are float32 there if windows have many lengths.
    """
    decoder = model.decoder
    decoder.row_multiple = 1
    embedding = decoder.token_embedding.weight.bfloat16()
    decoder.token_embedding.weight = nn.Parameter(embedding, requires_grad=False)
    if (compiled := library()) is not None and fits(model.config):
        _compile(model, compiled, weights)
        return
    whole_windows = model.config.has_whole_windows
    if has_tiles() or whole_windows:
        decoder.cross_dtype = torch.bfloat16
    if has_tiles() or (whole_windows and _fused_pays(model.config)):
        for block in decoder.blocks:
            cast("CrossAttention", block.cross_attn).attend = attend_fused
    if has_tiles():
        decoder.self_dtype = torch.bfloat16
        for block in decoder.blocks:
            cast("SelfAttention", block.attn).attend_cached = attend_fused


def _compile(model: WhisperModel, compiled: CDLL, weights: torch.dtype) -> None:
    """Compute the decoder's blocks by one function, and let go of their own linears."""
    decoder = model.decoder
    decoder.self_dtype = decoder.cross_dtype = torch.bfloat16
    decoder.compiled = CompiledDecoder(compiled, decoder, model.config, weights)
    for name, child in list(decoder.blocks.named_modules()):
        if isinstance(child, nn.Linear) and not reads_windows(name):
            decoder.blocks.set_submodule(name, nn.Identity())


def _fused_pays(config: WhisperConfig) -> bool:
    """Whether `attend_fused` reads a window clearly faster than `attend`: it is timed."""
    n_head, n_keys = config.n_text_head, config.n_audio_ctx
    query = torch.zeros(1, n_head, 1, config.d_model // n_head)
    key = torch.zeros(1, n_head, n_keys, query.shape[-1], dtype=torch.bfloat16)
    ways = (partial(way, query, key, key, None) for way in (attend_fused, attend))
    return is_clearly_faster(*ways)


def reads_windows(name: str) -> bool:
    """Whether a linear of `WhisperModel` with this name multiplies all positions of a window."""
    return name.startswith("encoder.") or name.endswith(".key_value")


def int8_linear_of_windows(weight: Tensor, bias: Tensor | None = None, kept: int = 0) -> nn.Module:
    """Return a linear on 8-bit integers for many rows: oneDNN multiplies those in tiles."""
    return (Int8Linear if has_tiles() else int8_linear)(weight, bias, kept)


def _pack_linears(model: WhisperModel, numerics: Numerics, kept: int) -> None:
    names = [name for name, child in model.named_modules() if isinstance(child, nn.Linear)]
    for name in names:
        linear = cast("nn.Linear", model.get_submodule(name))
        packed: nn.Module
        if not reads_windows(name):
            dtype = torch.bfloat16 if numerics.decoder == torch.int8 else numerics.decoder
            packed = PackedLinear(linear.weight, linear.bias, dtype, kept)
        elif numerics.encoder == torch.int8:
            packed = int8_linear_of_windows(linear.weight, linear.bias, kept)
        else:
            packed = PackedLinear(linear.weight, linear.bias, numerics.encoder, kept)
        model.set_submodule(name, packed)
