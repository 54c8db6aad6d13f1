"""An encoder block as functions of `compiled.c`: its positions, and attention between them.

In torch it is a dozen operations, each of which writes what the next one reads for all positions.
Here what is done to a position by itself is done for a few at a time, which stay in a core's cache
meanwhile. Products are of 8-bit integers. Knows nothing about windows or requests.
"""

from __future__ import annotations

import ctypes
from typing import cast

import torch
from torch import Tensor, nn

from service.model.attention import split_heads
from service.model.compiled import LANES, NormStruct, address
from service.model.compiled_attention import INTEGER_HEADS, attend_in_integers
from service.model.config import WhisperConfig
from service.model.encoder import EncoderBlock
from service.model.int8 import CompiledInt8Linear, LinearStruct


class _Block(ctypes.Structure):
    _fields_ = (
        *((name, LinearStruct) for name in ("qkv", "out", "up", "down")),
        ("attn_ln", NormStruct), ("mlp_ln", NormStruct), ("eps", ctypes.c_float),
    )  # fmt: skip


def fits(config: WhisperConfig) -> bool:
    """Whether it is compiled for a model of these dimensions."""
    widths = (config.d_model, config.n_audio_ffn)
    return (
        not any(width % LANES for width in widths)
        and config.d_model <= config.n_audio_ffn
        and config.d_model // config.n_audio_head in INTEGER_HEADS
    )


class CompiledEncoderBlock(nn.Module):
    """ln1 -> self_attn -> + residual ; ln2 -> ffn -> + residual.

    Args:
        compiled: the library.
        block: whose weights these are, f32.
    """

    def __init__(self, compiled: ctypes.CDLL, block: EncoderBlock) -> None:
        super().__init__()
        self._compiled = compiled
        self._n_head = block.attn.n_head
        up, down = cast("nn.Linear", block.mlp[0]), cast("nn.Linear", block.mlp[2])
        self._linears = nn.ModuleList(
            CompiledInt8Linear(compiled, linear.weight, linear.bias)
            for linear in (block.attn.qkv, block.attn.out, up, down)
        )
        self._norms = block.attn_ln, block.mlp_ln
        self._d_model = up.in_features
        self._struct = _Block(
            *(cast("CompiledInt8Linear", linear).struct for linear in self._linears),
            *(NormStruct(address(norm.weight), address(norm.bias)) for norm in self._norms),
            block.attn_ln.eps,
        )
        self._workspace_bytes = compiled.workspace_bytes(ctypes.byref(self._struct))

    def forward(self, x: Tensor) -> Tensor:
        """f32[b t d_model] -> f32[b t d_model]."""
        if x.shape[-1] != self._d_model or x.dtype != torch.float32:
            raise ValueError(f"{tuple(x.shape)} in {x.dtype}, not [... {self._d_model}] in float32")
        x = x.contiguous()
        scratch = torch.empty(torch.get_num_threads(), self._workspace_bytes, dtype=torch.uint8)
        return self.mix(self.attend(self.project(x, scratch)), x, scratch)

    def project(self, x: Tensor, scratch: Tensor) -> Tensor:
        """Return qkv(ln1(x)): f32[b t d_model] -> f32[b t 3*d_model]."""
        qkv = x.new_empty(*x.shape[:-1], 3 * self._d_model)
        self._compiled.project_positions(
            ctypes.byref(self._struct), address(x), ctypes.c_int64(x.shape[:-1].numel()),
            address(scratch), address(qkv), len(scratch),
        )  # fmt: skip
        return qkv

    def attend(self, qkv: Tensor) -> Tensor:
        """f32[b t 3*d_model] -> f32[b t h d]."""
        query, key, value = (split_heads(part, self._n_head) for part in qkv.chunk(3, dim=-1))
        return attend_in_integers(self._compiled, query, key, value).transpose(1, 2)

    def mix(self, context: Tensor, x: Tensor, scratch: Tensor) -> Tensor:
        """Return y + ffn(ln2(y)), y = x + out(context): f32[b t h d], f32[b t d_model] -> that."""
        out = torch.empty_like(x)
        self._compiled.mix_positions(
            ctypes.byref(self._struct), address(context), address(x),
            ctypes.c_int64(x.shape[:-1].numel()), address(scratch), address(out), len(scratch),
        )  # fmt: skip
        return out
