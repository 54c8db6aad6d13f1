"""Multi-head attention in the three forms that Whisper needs. Knows nothing about layers around it.

Encoder and teacher-forced passes use `scaled_dot_product_attention`. Decoding over a cache uses
`bmm -> softmax -> bmm`, because the result of a row must not depend on how many rows or keys stand
beside it (docs/adr/0001-batch-invariance.md). `service.model.packed` puts others in their places
where the CPU has some that keep to that.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
AttendCached = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


def split_heads(x: Tensor, n_head: int) -> Tensor:
    """[b t (h d)] -> [b h t d]."""
    return torch.unflatten(x, -1, (n_head, -1)).transpose(-2, -3)


def merge_heads(x: Tensor) -> Tensor:
    """[b h t d] -> [b t (h d)]."""
    return x.transpose(-2, -3).flatten(-2)


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """Return attention over cached keys, bit-equal for a row whatever its neighbours are.

    Shapes: query [b h q d], key and value [b h k d], bias [b 1 q k] (0 or -inf), -> [b h q d].
    The softmax is in float32, as in openai/whisper `MultiHeadAttention.qkv_attention`; the products
    are in the dtype that the keys are kept in.
    """
    scaled = (query * query.shape[-1] ** -0.5).to(key.dtype)
    scores = torch.matmul(scaled, key.transpose(-1, -2)).float()
    if bias is not None:
        scores = scores + bias
    return torch.matmul(scores.softmax(dim=-1).to(value.dtype), value)


class SelfAttention(nn.Module):
    """Self-attention with one fused projection for query, key and value.

    Whisper's key projection has no bias: that third of `qkv.bias` is zero.

    Attributes:
        attend: attention of all positions to all: query, key and value [b h t d] -> [b h t d].
        attend_cached: attention over cached keys and values, with the arguments of `attend`.
    """

    def __init__(self, d_model: int, n_head: int) -> None:
        super().__init__()
        self.n_head = n_head
        self.attend: Attend = scaled_dot_product_attention
        self.attend_cached: AttendCached = attend
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[b t d_model] -> query, key, value, each [b h t d]."""
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        n_head = self.n_head
        return split_heads(query, n_head), split_heads(key, n_head), split_heads(value, n_head)

    def forward(self, x: Tensor, *, causal: bool = False) -> Tensor:
        """[b t d_model] -> [b t d_model], over all positions at once."""
        query, key, value = self.project(x)
        if causal:
            context = scaled_dot_product_attention(query, key, value, is_causal=True)
        else:
            context = self.attend(query, key, value)
        out: Tensor = self.out(merge_heads(context))
        return out


class CrossAttention(nn.Module):
    """Attention from the decoder to `encoder_output`, with keys and values fused and cached.

    Attributes:
        attend: attention over cached keys and values, with the arguments of `attend`.
    """

    def __init__(self, d_model: int, n_head: int) -> None:
        super().__init__()
        self.n_head = n_head
        self.attend: AttendCached = attend
        self.query = nn.Linear(d_model, d_model)
        self.key_value = nn.Linear(d_model, 2 * d_model)
        self.out = nn.Linear(d_model, d_model)

    def project_key_value(self, encoder_output: Tensor) -> tuple[Tensor, Tensor]:
        """[b t d_model] -> key, value, each [b h t d]."""
        key, value = self.key_value(encoder_output).chunk(2, dim=-1)
        return split_heads(key, self.n_head), split_heads(value, self.n_head)

    def forward(self, x: Tensor, encoder_output: Tensor) -> Tensor:
        """[b t d_model], [b k d_model] -> [b t d_model], over all positions at once."""
        query = split_heads(self.query(x), self.n_head)
        key, value = self.project_key_value(encoder_output)
        context = scaled_dot_product_attention(query.to(key.dtype), key, value)
        out: Tensor = self.out(merge_heads(context))
        return out
