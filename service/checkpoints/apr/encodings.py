"""How numbers are stored in `.apr` files, to tensors and back. Knows nothing about files.

name     bytes for n numbers        meaning
F32 ...  n * their size             as they are
INT8     n                          times one scale for the tensor, kept outside (first layout)
AprQ8    4 + n                      f32 scale, then int8: whole-tensor absmax/127
AprQ4    ceil(n/32) * 18            blocks of f16 scale and 32 nibbles, element 2i the low one;
                                    (nibble - 8) * scale, over the flattened tensor
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Q4_BLOCK = 32
_Q4_BLOCK_BYTES = 18
_Q8_SCALE_BYTES = 4
_SMALLEST_SCALE = 6.1e-5
"""Other readers take a smaller AprQ4 scale, or one that is no number, for zero."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """One way to store numbers.

    Attributes:
        name: as it is shown.
        dtype: of the decoded tensor.
        block: numbers that are stored together.
        block_bytes: bytes of one block.
        head_bytes: bytes before the first block.
        readable: False for what is known by its size only.
    """

    name: str
    dtype: torch.dtype
    block: int = 1
    block_bytes: int = 0
    head_bytes: int = 0
    readable: bool = True

    def size(self, n: int) -> int:
        """Return the bytes of `n` numbers."""
        if n == 0:
            return 0
        return self.head_bytes + -(-n // self.block) * (self.block_bytes or self.dtype.itemsize)


F32 = Encoding("F32", torch.float32)
F16 = Encoding("F16", torch.float16)
BF16 = Encoding("BF16", torch.bfloat16)
F64 = Encoding("F64", torch.float64)
I8 = Encoding("I8", torch.int8)
I32 = Encoding("I32", torch.int32)
I64 = Encoding("I64", torch.int64)
U8 = Encoding("U8", torch.uint8)
INT8 = Encoding("INT8", torch.float32, block_bytes=1)
Q8 = Encoding("AprQ8", torch.float32, block_bytes=1, head_bytes=_Q8_SCALE_BYTES)
Q4 = Encoding("AprQ4", torch.float32, Q4_BLOCK, _Q4_BLOCK_BYTES)
Q4_0 = Encoding("Q4_0", torch.float32, 32, 18, readable=False)
Q4_K = Encoding("Q4_K", torch.float32, 256, 144, readable=False)
Q6_K = Encoding("Q6_K", torch.float32, 256, 210, readable=False)

PLAIN = {e.dtype: e for e in (F32, F16, BF16, F64, I8, I32, I64, U8)}
"""dtype -> how it is stored as it is."""


def decode(data: memoryview, encoding: Encoding, n: int, scale: float | None = None) -> Tensor:
    """Return the numbers as a flat tensor, which shares memory with `data` where it can.

    Args:
        data: exactly `encoding.size(n)` bytes.
        encoding: one that is `readable`.
        n: how many numbers.
        scale: of INT8.
    """
    if n == 0:
        return torch.empty(0, dtype=encoding.dtype)
    if encoding is Q8:
        (factor,) = _numbers(data[:_Q8_SCALE_BYTES], torch.float32).tolist()
        return _numbers(data[_Q8_SCALE_BYTES:], torch.int8).float().mul_(factor)
    if encoding is Q4:
        return _decode_q4(data, n)
    if encoding is INT8:
        return _numbers(data, torch.int8).float().mul_(1.0 if scale is None else scale)
    return _numbers(data, encoding.dtype)


def _numbers(data: memoryview, dtype: torch.dtype) -> Tensor:
    flat = torch.frombuffer(data, dtype=torch.uint8)
    if flat.data_ptr() % dtype.itemsize:  # the first layout aligns nothing
        flat = flat.clone()
    return flat.view(dtype)


def _decode_q4(data: memoryview, n: int) -> Tensor:
    blocks = torch.frombuffer(data, dtype=torch.uint8).view(-1, _Q4_BLOCK_BYTES)
    scales = blocks[:, :2].contiguous().view(torch.float16).float()  # [blocks 1]
    usable = scales.isfinite() & (scales.abs() >= _SMALLEST_SCALE)
    packed = blocks[:, 2:]
    nibbles = torch.stack([packed & 15, packed >> 4], dim=-1).flatten(1)  # [blocks 32]
    values = nibbles.float().sub_(8).mul_(scales.where(usable, 0.0))
    return values.flatten()[:n]


def encode(tensor: Tensor, encoding: Encoding) -> bytes | memoryview:
    """Return a tensor's numbers in an encoding; AprQ4 and AprQ8 as Aprender's writer does it.

    Shapes: any -> `encoding.size(tensor.numel())` bytes.
    """
    if tensor.numel() == 0:
        return b""
    if encoding is Q8:
        scale, quantised = quantise_int8(tensor)
        return _bytes(torch.tensor([scale])).tobytes() + _bytes(quantised).tobytes()
    if encoding is Q4:
        return _encode_q4(tensor)
    return _bytes(tensor.to(encoding.dtype))


def quantise_int8(tensor: Tensor) -> tuple[float, Tensor]:
    """Return the scale, absmax/127 or 1 where all is zero, and the int8 of a whole tensor."""
    values = tensor.float()
    largest = values.abs().amax().item()
    scale = torch.tensor(largest / 127.0 if largest else 1.0).item()  # as float32 holds it
    return scale, _round_half_away(values / scale).clamp_(-127, 127).to(torch.int8)


def _encode_q4(tensor: Tensor) -> memoryview:
    flat = tensor.float().flatten()
    padding = -flat.numel() % Q4_BLOCK
    blocks = torch.nn.functional.pad(flat, (0, padding)).view(-1, Q4_BLOCK)
    scales = (blocks.abs().amax(dim=1, keepdim=True) / 7.0).half()
    divisor = scales.float()
    divisor = divisor.where(divisor >= _SMALLEST_SCALE, torch.inf)  # read as zero: write zeros
    nibbles = (_round_half_away(blocks / divisor).clamp_(-8, 7) + 8).to(torch.uint8)
    packed = nibbles[:, 0::2] | (nibbles[:, 1::2] << 4)
    return _bytes(torch.cat([scales.view(torch.uint8), packed], dim=1))


def _round_half_away(values: Tensor) -> Tensor:
    return values.sign() * values.abs().add_(0.5).floor_()


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    numbers: Any = flat.numpy()
    return memoryview(numbers).cast("B")
