"""Linears and attention on weights that are laid out once for this CPU.

oneDNN reads weights in blocks. `nn.Linear` hands it a matrix as it lies in memory, which is put
into blocks again at every call, or read at a fraction of the memory's speed; here that is done
once. A model is changed in place by `pack`, and can then be run, not trained or saved.

A row's result must not depend on its neighbours (docs/adr/0001-batch-invariance.md). oneDNN's
bfloat16 products have one order of summation for every number of rows, and sums of integers have
none to choose, so those need no rows for padding; the start-up probe checks it.

For each number of rows oneDNN makes a kernel, and keeps it. So products are computed in blocks of a
few numbers of rows (`blocks`), or memory would grow with every length that requests bring.

Knows nothing about requests.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from service.model.attention import CrossAttention, SelfAttention, attend
from service.model.config import WhisperConfig
from service.model.numerics import Numerics, has_tiles
from service.model.timing import is_clearly_faster
from service.model.whisper import WhisperModel

_LEVELS = 127
"""Largest 8-bit integer of a scaled row."""
_ZERO_POINT = 128
"""Activations are unsigned: oneDNN's kernels for signed ones are hundreds of times slower."""
_QUERY_BLOCK = 250
"""Queries whose scores over 1500 keys are in the cache of a core together."""
_BLOCKS = (1024, 512, 256, 128, 64, 32)
"""Numbers of rows that more than the last of them are computed in."""
_PER_OCTAVE = 2
"""Numbers of rows under that between one power of two and the next."""


def blocks(n_rows: int, kept: int = 0) -> list[int]:
    """Return in which numbers of rows a product of so many is computed, one after another.

    Where these are a multiple of a power of two, 4 for one and up to 32, each block is one too,
    which is what keeps the bits of a row (docs/adr/0001). The blocks depend on nothing but the
    number of rows.

    Args:
        n_rows: one at least.
        kept: a number that comes often; its multiples stay whole.
    """
    if kept and n_rows % kept == 0:
        return [n_rows]
    found = []
    for size in _BLOCKS:
        found += [size] * (n_rows // size)
        n_rows %= size
    if n_rows:
        step = max(1, (1 << n_rows.bit_length() - 1) // _PER_OCTAVE)
        found.append(-(-n_rows // step) * step)
    return found


@lru_cache(maxsize=1024)
def _is_one_block(n_rows: int, kept: int) -> bool:
    """Whether so many rows are computed as they are. A step asks it for each of its products."""
    return blocks(n_rows, kept) == [n_rows]


def _in_blocks(product: Callable[[Tensor], Tensor], x: Tensor, kept: int = 0) -> Tensor:
    """Apply a product to [... n_in] -> [... n_out], with zeros for the rows that are too many."""
    if x.dim() == 2 and _is_one_block(x.shape[0], kept):
        return product(x)
    rows = x.flatten(0, -2)
    n_rows = rows.shape[0]
    sizes = blocks(n_rows, kept)
    if sizes == [n_rows]:
        return torch.unflatten(product(rows), 0, x.shape[:-1])
    rows = pad(rows, (0, 0, 0, sum(sizes) - n_rows))
    out = torch.cat([product(block) for block in torch.split(rows, sizes)])
    return torch.unflatten(out[:n_rows], 0, x.shape[:-1])


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
        return _in_blocks(self._product, x.to(self._dtype), self._kept)

    def blocks(self, n_rows: int) -> list[int]:
        """Return in which numbers of rows it computes so many."""
        return blocks(n_rows, self._kept)

    def _product(self, rows: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(
            rows, self._weight, self._bias, "none", [], ""
        )
        return out


class Int8Head(nn.Module):
    """The LM head on 8-bit integers, whose sums are exact whatever stands beside them.

    Weights have a scale for each token, activations one for each row:
    `y = s_row * s_token * (q @ w)` with integers q and w.

    Args:
        weight: f32[n_vocab d_model].
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        scales = (weight.abs().amax(dim=1) / _LEVELS).clamp_min(torch.finfo(torch.float32).tiny)
        integers = (weight / scales[:, None]).round_().to(torch.int8)
        self._scales = scales
        self._zeros = torch.zeros(len(scales), dtype=torch.int64)
        self._weight: Tensor = torch.ops.onednn.qlinear_prepack(integers, None)

    def forward(self, x: Tensor) -> Tensor:
        """f32[n d_model] -> f32[n n_vocab]. A row that is not finite stays so, and its own."""
        return _in_blocks(self._product, x)

    def _product(self, x: Tensor) -> Tensor:
        scales = x.abs().amax(dim=-1, keepdim=True) / _LEVELS
        scales = scales.clamp_min(torch.finfo(torch.float32).tiny)
        integers = (x / scales).round_().add_(_ZERO_POINT).to(torch.uint8)
        out: Tensor = torch.ops.onednn.qlinear_pointwise(
            integers, 1.0, _ZERO_POINT, self._weight, self._scales, self._zeros, None,
            1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        return out.mul_(scales)


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

    Each linear's own weights are let go as soon as they are packed.
    """
    if not numerics.is_packed:
        return
    _pack_linears(model, numerics, model.config.n_audio_ctx)
    decoder = model.decoder
    head = decoder.token_embedding.weight if decoder.head is None else decoder.head
    if numerics.head == torch.int8:
        decoder.packed_head = Int8Head(head)
    else:
        decoder.packed_head = PackedLinear(head, None, numerics.head)
    decoder.head = None
    if numerics.decoder == torch.bfloat16:
        _decode_in_bfloat16(model)
    if numerics.encoder == torch.bfloat16 and not has_tiles():
        for block in model.encoder.blocks:
            cast("SelfAttention", block.attn).attend = attend_by_head
    model.numerics = numerics


def _decode_in_bfloat16(model: WhisperModel) -> None:
    """Keep the token embedding in it, and keys and values where that is bounded and invariant.

    Without tiles, products of one query by keys in bfloat16 have a kernel of oneDNN for each number
    of windows and length of keys, and `attend_fused` gives other bits beside masked keys. So a
    window's are float32 there if windows have many lengths.
    """
    decoder = model.decoder
    decoder.row_multiple = 1
    embedding = decoder.token_embedding.weight.bfloat16()
    decoder.token_embedding.weight = nn.Parameter(embedding, requires_grad=False)
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


def _pack_linears(model: WhisperModel, numerics: Numerics, kept: int) -> None:
    names = [name for name, child in model.named_modules() if isinstance(child, nn.Linear)]
    for name in names:
        linear = cast("nn.Linear", model.get_submodule(name))
        dtype = numerics.encoder if reads_windows(name) else numerics.decoder
        model.set_submodule(name, PackedLinear(linear.weight, linear.bias, dtype, kept))
