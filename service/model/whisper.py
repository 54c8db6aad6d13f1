"""Whisper's decoder and the whole model. Pure forwards: the cache is an argument, no attribute.

Knows nothing about checkpoints' tensor names, tokens' meaning or who asked. Submodules carry
openai/whisper's names, except that query, key and value are fused.

Architecture: Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision" (2022),
and openai/whisper `model.py`. Parity: tests/parity/.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

from service.model.attention import CrossAttention, SelfAttention, merge_heads, split_heads
from service.model.compiled_decoder import CompiledDecoder
from service.model.config import WhisperConfig
from service.model.encoder import AudioEncoder, feed_forward
from service.model.kv_cache import CacheView, KVCache, to_device
from service.model.numerics import PLAIN
from service.model.places import RowGroup
from service.model.watched import WatchedHeads

ROW_MULTIPLE = 4
"""Rows of a decode step's linears are padded to a multiple of this (docs/adr/0001).

`TextDecoder.row_multiple` starts here; the engine's start-up probe may raise it.
"""

TEXT_MULTIPLE = 32
"""Texts that are read at once are padded to a multiple of this, each by itself."""


def padded_length(n_tokens: int, n_text_ctx: int) -> int:
    """Return the positions that a text of so many tokens takes when it is read at once."""
    return min(-(-n_tokens // TEXT_MULTIPLE) * TEXT_MULTIPLE, n_text_ctx)


class DecoderBlock(nn.Module):
    """ln1 -> causal self_attn ; ln2 -> cross_attn ; ln3 -> ffn ; each + residual."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.attn = SelfAttention(config.d_model, config.n_text_head)
        self.attn_ln = nn.LayerNorm(config.d_model)
        self.cross_attn = CrossAttention(config.d_model, config.n_text_head)
        self.cross_attn_ln = nn.LayerNorm(config.d_model)
        self.mlp = feed_forward(config.d_model, config.n_text_ffn)
        self.mlp_ln = nn.LayerNorm(config.d_model)

    def forward(self, x: Tensor, encoder_output: Tensor) -> Tensor:
        """[b t d_model], [b k d_model] -> [b t d_model], all positions at once."""
        x = x + self.attn(self.attn_ln(x), causal=True)
        x = x + self.cross_attn(self.cross_attn_ln(x), encoder_output)
        out: Tensor = x + self.mlp(self.mlp_ln(x))
        return out

    def decode(self, x: Tensor, layer: int, views: Sequence[CacheView]) -> Tensor:
        """[n d_model] -> [n d_model]; the rows of the views, one after another, use the cache.

        `n` may be larger than all their rows: the rest is padding for the linears, which attends
        to nothing.
        """
        new = self.attn.qkv(self.attn_ln(x))
        x = x + self.attn.out(self._over_views(new, layer, views, self._attend_self))
        query = self.cross_attn.query(self.cross_attn_ln(x))
        x = x + self.cross_attn.out(self._over_views(query, layer, views, self._attend_cross))
        out: Tensor = x + self.mlp(self.mlp_ln(x))
        return out

    def _over_views(
        self,
        x: Tensor,
        layer: int,
        views: Sequence[CacheView],
        attend_one: Callable[[Tensor, int, CacheView], Tensor],
    ) -> Tensor:
        """[n c] -> context [n d_model], each view's rows by themselves."""
        contexts, at = [], 0
        for view in views:
            n_new = view.write_index.numel()
            contexts.append(attend_one(x[at : at + n_new], layer, view))
            at += n_new
        context = contexts[0] if len(contexts) == 1 else torch.cat(contexts)
        return pad(context, (0, 0, 0, x.shape[0] - at))

    def _attend_self(self, new: Tensor, layer: int, view: CacheView) -> Tensor:
        """Write the new keys and values, and attend: [b*q 3*d_model] -> [b*q d_model]."""
        query, key, value = (
            split_heads(part, self.attn.n_head)
            for part in torch.unflatten(new, 0, view.write_index.shape).chunk(3, dim=-1)
        )
        keys, values = view.self_kv[layer].unbind(0)  # [b h k d]
        for pool, fresh in zip(view.self_pool[layer].unbind(0), (key, value), strict=True):
            pool[view.row_index, :, view.write_index] = fresh.transpose(1, 2).to(pool.dtype)
        context = self.attn.attend_cached(query, keys, values, view.self_bias)
        return merge_heads(context).flatten(0, 1)

    def _attend_cross(self, query: Tensor, layer: int, view: CacheView) -> Tensor:
        """[b*q d_model] -> [b*q d_model]; a window's hypotheses are its query positions."""
        keys, values = view.cross_kv[layer].unbind(0)  # [n h c d]
        n_windows = view.cross_kv.shape[2]
        by_window = split_heads(torch.unflatten(query, 0, (n_windows, -1)), self.attn.n_head)
        if view.watched is not None:
            view.watched.look(layer, by_window, keys)
        context = self.cross_attn.attend(by_window, keys, values, view.cross_bias)
        return merge_heads(context).flatten(0, 1)


class TextDecoder(nn.Module):
    """Tokens to logits, given the encoder's output or its cached keys and values."""

    head: nn.Parameter | None

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(config.n_vocab, config.d_model)
        self.positional_embedding = nn.Parameter(torch.zeros(config.n_text_ctx, config.d_model))
        self.blocks = nn.ModuleList(DecoderBlock(config) for _ in range(config.n_text_layer))
        self.ln = nn.LayerNorm(config.d_model)
        head = torch.zeros(config.n_vocab, config.d_model) if config.separate_head else None
        self.register_parameter("head", None if head is None else nn.Parameter(head))
        self.packed_head: nn.Module | None = None
        self.compiled: CompiledDecoder | None = None
        self.self_dtype: torch.dtype | None = None
        self.cross_dtype: torch.dtype | None = None
        self.row_multiple = ROW_MULTIPLE

    def _layers(self) -> list[DecoderBlock]:
        return [cast("DecoderBlock", block) for block in self.blocks]

    def _check_is_whole(self) -> None:
        if self.compiled is not None:
            raise RuntimeError("the blocks are compiled: `WhisperModel.read` and `decode` run them")

    def logits(self, x: Tensor) -> Tensor:
        """[... d_model] -> f32[... n_vocab], by the token embedding unless the head is separate."""
        if self.packed_head is not None:
            packed: Tensor = self.packed_head(self.ln(x))
            return packed.float()
        head = self.token_embedding.weight if self.head is None else self.head
        return linear(self.ln(x), head).float()

    def forward(self, tokens: Tensor, encoder_output: Tensor) -> Tensor:
        """i64[b t], [b k d_model] -> logits f32[b t n_vocab], teacher-forced."""
        self._check_is_whole()
        x = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x, encoder_output)
        return self.logits(x)

    def cross_kv(self, encoder_output: Tensor) -> Tensor:
        """[b t d_model] -> [b l 2 h t d], what `KVCache.write_cross` stores per window.

        Rounded already to `cross_dtype`, if there is one.
        """
        layers = []
        for block in self._layers():
            projected = block.cross_attn.project_key_value(encoder_output)
            kept = [part.to(self.cross_dtype or part.dtype) for part in projected]
            layers.append(torch.stack(kept, dim=1))
        return torch.stack(layers, dim=1)

    def decode(self, tokens: Tensor, views: Sequence[CacheView]) -> Tensor:
        """i64[rows of all views] -> hidden states before the LM head [n d_model], rows padded.

        Writes the new keys and values through the views.
        """
        self._check_is_whole()
        padding = -tokens.numel() % self.row_multiple
        ids = pad(tokens, (0, padding))
        positions = pad(torch.cat([view.write_index.flatten() for view in views]), (0, padding))
        x: Tensor = self.token_embedding(ids) + self.positional_embedding[positions]
        for layer, block in enumerate(self._layers()):
            x = block.decode(x, layer, views)
        return x


class WhisperModel(nn.Module):
    """The whole model. One per process.

    Inference is `encode` -> `cross_kv` into a `KVCache` -> `prefill` once, then `decode` per token.
    `forward` is the teacher-forced pass over both halves, for training and parity tests.

    Attributes:
        numerics: what it computes in; `service.model.packed.pack` sets others.
    """

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = AudioEncoder(config)
        self.decoder = TextDecoder(config)
        self.numerics = PLAIN

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.decoder.positional_embedding.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.decoder.positional_embedding.dtype

    @property
    def self_dtype(self) -> torch.dtype:
        """The dtype that the decoder's own keys and values are kept in."""
        return self.decoder.self_dtype or self.dtype

    @property
    def cross_dtype(self) -> torch.dtype:
        """The dtype that a window's keys and values are kept in."""
        return self.decoder.cross_dtype or self.dtype

    def new_cache(self, windows: int, rows: int, *, spare_rows: int = 0) -> KVCache:
        """Return a cache for this model's keys and values; the arguments are `KVCache`'s."""
        return KVCache(
            self.config, windows, rows, spare_rows=spare_rows,
            device=self.device, dtype=self.self_dtype, cross_dtype=self.cross_dtype,
        )  # fmt: skip

    def forward(self, mel: Tensor, tokens: Tensor) -> Tensor:
        """[b n_mels t], i64[b s] -> logits f32[b s n_vocab]."""
        out: Tensor = self.decoder(tokens, self.encoder(mel))
        return out

    def encode(self, mel: Tensor) -> Tensor:
        """[b n_mels t] -> encoder_output [b t/2 d_model]."""
        out: Tensor = self.encoder(mel)
        return out

    def prefill(
        self, tokens: list[int], cache: KVCache, place: RowGroup, *, logits_at: Sequence[int]
    ) -> Tensor:
        """Decode a prompt on one row from position 0 -> logits f32[len(logits_at) n_vocab].

        The prompt runs alone, so its bits do not depend on what else runs.
        """
        [hidden] = self.read([tokens], cache, [place])
        return self.logits_after(hidden, logits_at)

    def read(
        self,
        texts: Sequence[list[int]],
        cache: KVCache,
        places: Sequence[RowGroup],
        watched: Sequence[WatchedHeads] = (),
    ) -> list[Tensor]:
        """Decode texts, each on one row from position 0 -> the hidden states of each [t d_model].

        Each is padded by its own length, unless the decoder is compiled, and attends by itself;
        they share the linears. Keys written for the padding lie after the text and are overwritten
        before any row may look at them.

        Args:
            texts: token ids.
            cache: read and written.
            places: of one row each.
            watched: those who want to know what the heads look at, one a text, or none.
        """
        if self.decoder.compiled is not None:
            return self.decoder.compiled.read(texts, cache, places, watched)
        ids: list[int] = []
        lengths, views = [], []
        for number, (tokens, place) in enumerate(zip(texts, places, strict=True)):
            lengths.append(padded_length(len(tokens), cache.n_text_ctx))
            ids += tokens + [0] * (lengths[-1] - len(tokens))
            view = cache.view(place, [0], lengths[-1])
            views.append(replace(view, watched=watched[number]) if watched else view)
        hidden = self.decoder.decode(to_device(ids, cache.device), views)
        return list(torch.split(hidden[: sum(lengths)], lengths))

    def logits_after(self, hidden: Tensor, positions: Sequence[int]) -> Tensor:
        """Return the logits at some positions of a text: [t d_model] -> f32[n n_vocab]."""
        at = list(positions)
        at += at[-1:] * (-len(at) % self.decoder.row_multiple)
        wanted = hidden[to_device(at, hidden.device)]
        return self.decoder.logits(wanted)[: len(positions)]

    def decode(
        self,
        tokens: Tensor,
        positions: list[int],
        cache: KVCache,
        groups: Sequence[RowGroup] | None = None,
    ) -> Tensor:
        """One token for each row: i64[b] -> logits f32[b n_vocab].

        Args:
            tokens: of the groups' rows, group after group.
            positions: where they stand.
            cache: read and written.
            groups: the rows that run; by default one hypothesis each of the windows `[0, b)`.
        """
        if groups is None:
            groups = [RowGroup(0, 0, len(positions))]
        if self.decoder.compiled is not None:
            hidden = self.decoder.compiled.step(tokens, positions, cache, groups)
            return self.decoder.logits(hidden)
        views, at = [], 0
        for group in (part for whole in groups for part in cache.of_one_length(whole)):
            views.append(cache.view(group, positions[at : at + group.n_rows], 1))
            at += group.n_rows
        hidden = self.decoder.decode(tokens, views)
        return self.decoder.logits(hidden)[: tokens.shape[0]]
