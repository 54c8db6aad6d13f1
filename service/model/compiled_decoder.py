"""The decoder's blocks as one function of `compiled.c`, and its structs as Python has them.

A step of a few rows is over a thousand calls into torch, which take longer to be dispatched than
memory to be read. Compiled, it is one call. Keys and values are bfloat16, weights that or 8-bit
integers with a scale for each output; what is computed is float32. Knows nothing about requests.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from service.model.attention import split_heads
from service.model.compiled import NormStruct
from service.model.config import WhisperConfig
from service.model.int8 import as_integers
from service.model.kv_cache import KVCache
from service.model.places import Place, RowGroup
from service.model.watched import WatchedHeads

if TYPE_CHECKING:
    from service.model.whisper import DecoderBlock, TextDecoder

TILE = 32
"""Columns whose weights stand together in memory, and that a linear's width has to divide by."""
HEAD_WIDTHS = range(16, 129, 16)
"""Numbers of one head that it is compiled for."""


class _Linear(ctypes.Structure):
    _fields_ = (
        ("weight", ctypes.c_void_p), ("scales", ctypes.c_void_p), ("bias", ctypes.c_void_p),
        ("n_in", ctypes.c_int64), ("n_out", ctypes.c_int64),
    )  # fmt: skip


class _Block(ctypes.Structure):
    _fields_ = tuple((name, NormStruct) for name in ("attn_ln", "cross_ln", "mlp_ln")) + tuple(
        (name, _Linear) for name in ("qkv", "attn_out", "query", "cross_out", "up", "down")
    )


class _Model(ctypes.Structure):
    _fields_ = (
        ("blocks", ctypes.POINTER(_Block)),
        ("token_embedding", ctypes.c_void_p), ("positions", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("n_vocab", "n_layer", "n_head", "d_head", "d_model")),
        ("eps", ctypes.c_float),
    )  # fmt: skip


class _Cache(ctypes.Structure):
    _fields_ = (
        ("self", ctypes.c_void_p), ("cross", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("rows", "n_text_ctx", "windows", "n_audio_ctx")),
    )  # fmt: skip


class _Scratch(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_void_p) for name in ("x", "normed", "wide", "context", "queries")
    )


def fits(config: WhisperConfig) -> bool:
    """Whether it is compiled for a model of these dimensions."""
    widths = (config.d_model, config.n_text_ffn)
    return (
        not any(width % TILE for width in widths)
        and config.d_model // config.n_text_head in HEAD_WIDTHS
    )


class CompiledDecoder:
    """A decoder's blocks on weights that were laid out for them.

    Args:
        compiled: the library.
        decoder: whose weights these are, f32, its token embedding bfloat16.
        config: its dimensions.
        dtype: of the linears' weights in memory, bfloat16 or int8.
    """

    def __init__(
        self,
        compiled: ctypes.CDLL,
        decoder: TextDecoder,
        config: WhisperConfig,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        self._decode = compiled.decode
        self._dtype = dtype
        self._width = max(3 * config.d_model, config.n_text_ffn)
        self._n_layer = config.n_text_layer
        self._d_model = config.d_model
        self._n_head = config.n_text_head
        self._kept: list[Tensor] = []
        blocks = [cast("DecoderBlock", block) for block in decoder.blocks]
        self._blocks = (_Block * len(blocks))(*(self._block(block) for block in blocks))
        self._model = _Model(
            self._blocks, self._keep(decoder.token_embedding.weight),
            self._keep(decoder.positional_embedding),
            config.n_vocab, config.n_text_layer, config.n_text_head,
            config.d_model // config.n_text_head, config.d_model, blocks[0].attn_ln.eps,
        )  # fmt: skip

    def step(
        self, tokens: Tensor, positions: list[int], cache: KVCache, groups: Sequence[RowGroup]
    ) -> Tensor:
        """Run one token for each row of groups: i64[n] -> hidden states f32[n d_model].

        Args:
            tokens: ids in the vocabulary.
            positions: where they stand.
            cache: read and written.
            groups: the rows that run.

        Raises:
            ValueError: if a row, a slot, a position or a token is not there.
        """
        places: list[Place] = []
        for group in groups:
            at = len(places)
            places += cache.places(group, positions[at : at + group.n_rows])
        return self._run(tokens, places, cache)

    def read(
        self,
        texts: Sequence[list[int]],
        cache: KVCache,
        groups: Sequence[RowGroup],
        watched: Sequence[WatchedHeads] = (),
    ) -> list[Tensor]:
        """Run texts, each on one row from position 0 -> hidden states of each, f32[t d_model].

        Args:
            texts: token ids.
            cache: read and written.
            groups: of one row each.
            watched: those who want to know what the heads look at, one a text, or none.

        Raises:
            ValueError: as `step` does.
        """
        lengths = [len(tokens) for tokens in texts]
        places: list[Place] = []
        for group, n_tokens in zip(groups, lengths, strict=True):
            places += cache.places(group, [0], n_tokens)
        tokens = torch.tensor([token for text in texts for token in text])
        queries = torch.empty(self._n_layer, len(places), self._d_model) if watched else None
        hidden = self._run(tokens, places, cache, queries)
        if queries is not None:
            of_texts = torch.split(queries, lengths, dim=1)
            for group, heads, own in zip(groups, watched, of_texts, strict=True):
                for layer, keys in enumerate(cache.window(group.slot)[:, 0]):
                    heads.look(layer, split_heads(own[layer][None], self._n_head), keys)
        return list(torch.split(hidden, lengths))

    def _run(
        self,
        tokens: Tensor,
        places: Sequence[Place],
        cache: KVCache,
        queries: Tensor | None = None,
    ) -> Tensor:
        """Run tokens, each at its place, which is written before any is looked at.

        `queries`, f32[n_layer n d_model], are filled with those of the cross-attention.
        """
        n = len(places)
        if len(tokens) != n:
            raise ValueError(f"{len(tokens)} tokens, {n} places")
        if {cache.self_.dtype, cache.cross.dtype} != {torch.bfloat16}:
            raise ValueError(f"the cache is in {cache.self_.dtype} and {cache.cross.dtype}")
        table = torch.tensor([(0, *place) for place in places])
        table[:, 0] = tokens
        x, normed, context = torch.empty(3, n, self._d_model).unbind(0)
        wide = torch.empty(n, self._width)
        buffers = (x, normed, wide, context, queries)
        scratch = _Scratch(*(None if one is None else one.data_ptr() for one in buffers))
        pools = _Cache(
            cache.self_.data_ptr(), cache.cross.data_ptr(),
            cache.self_.shape[2], cache.n_text_ctx, cache.windows, cache.n_audio_ctx,
        )  # fmt: skip
        bad: int = self._decode(
            ctypes.byref(self._model), ctypes.byref(pools), ctypes.c_void_p(table.data_ptr()),
            ctypes.c_int64(n), ctypes.byref(scratch), torch.get_num_threads(),
        )  # fmt: skip
        if bad >= 0:
            raise ValueError(f"token {int(tokens[bad])} at {places[bad]} is not there")
        return x

    def _block(self, block: DecoderBlock) -> _Block:
        up, _, down = block.mlp
        return _Block(
            self._norm(block.attn_ln), self._norm(block.cross_attn_ln), self._norm(block.mlp_ln),
            self._linear(block.attn.qkv), self._linear(block.attn.out),
            self._linear(block.cross_attn.query), self._linear(block.cross_attn.out),
            self._linear(cast("nn.Linear", up)), self._linear(cast("nn.Linear", down)),
        )  # fmt: skip

    def _norm(self, norm: nn.LayerNorm) -> NormStruct:
        return NormStruct(self._keep(norm.weight), self._keep(norm.bias))

    def _linear(self, linear: nn.Linear) -> _Linear:
        n_out, n_in = linear.weight.shape
        scales: int | None = None
        if self._dtype == torch.int8:
            weight, of_outputs = as_integers(linear.weight)
            scales = self._keep(of_outputs)
        else:
            weight = linear.weight.to(self._dtype)
        tiles = weight.view(-1, TILE, n_in).transpose(1, 2).contiguous()
        bias = torch.zeros(n_out) if linear.bias is None else linear.bias
        return _Linear(self._keep(tiles), scales, self._keep(bias), n_in, n_out)

    def _keep(self, tensor: Tensor) -> int:
        """Keep a tensor for as long as its address is used."""
        self._kept.append(tensor.detach().contiguous())
        return self._kept[-1].data_ptr()
