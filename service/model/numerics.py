"""In which arithmetic a model runs on a CPU. Knows nothing about how a kernel does it.

The weights of a checkpoint are the same in all of them. What they cost in accuracy, and what they
gain, is measured by `benchmarks/numerics.py` and stands in docs/adr/0015-cpu-numerics.md.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cache, partial

import torch

from service.model.compiled import LANES, library
from service.model.compiled_decoder import fits
from service.model.config import WhisperConfig
from service.model.timing import is_clearly_faster

_BF16 = torch.bfloat16
_MACHINES = ("x86_64", "AMD64")
_SIDE = 512
"""Of the matrices whose product is timed."""


@dataclass(frozen=True, slots=True)
class Numerics:
    """What the parts of a model compute in.

    Attributes:
        name: of the setting that chooses it.
        is_packed: whether weights are laid out once, at start, in the order that this CPU's kernels
            read them in. Otherwise torch's own kernels run on the weights as they are.
        encoder: dtype of the encoder's linears and of the projection to a window's keys and values;
            of the encoder's attention too, which is float32 where this is int8 and attention in it
            is not compiled, or not for such heads.
        decoder: dtype of the weights of the decoder's other linears. int8 is bfloat16 where the
            decoder is not compiled. With either, bfloat16 is that of the token embedding and, where
            the decoder is compiled or the CPU has tiles, of the keys and values that are kept, its
            own and a window's, and elsewhere of a window's where all have one length. Residuals,
            normalisation, and sums and softmax but those of integers, are float32 in all.
        head: dtype that the LM head multiplies in. In int8 there is one scale for each row of
            activations, so that rows do not change each other, and one for each token.
    """

    name: str
    is_packed: bool = True
    encoder: torch.dtype = torch.float32
    decoder: torch.dtype = torch.float32
    head: torch.dtype = torch.float32

    @property
    def dtypes(self) -> tuple[torch.dtype, ...]:
        """What encoder, decoder and head multiply in."""
        return self.encoder, self.decoder, self.head


PLAIN = Numerics("plain", is_packed=False)
PACKED = Numerics("packed")
BFLOAT16 = Numerics("bfloat16", encoder=_BF16, decoder=_BF16, head=_BF16)
MIXED = Numerics("mixed", encoder=_BF16, decoder=_BF16, head=torch.int8)
MIXED_DECODER = Numerics("mixed-decoder", decoder=_BF16, head=torch.int8)
INT8 = Numerics("int8", encoder=torch.int8, decoder=torch.int8, head=torch.int8)
NUMERICS = {
    numerics.name: numerics for numerics in (PLAIN, PACKED, BFLOAT16, MIXED, MIXED_DECODER, INT8)
}


def choose_numerics(
    name: str, device: torch.device, dtype: torch.dtype, config: WhisperConfig | None = None
) -> Numerics:
    """Return the numerics of a name; `auto` is the fastest that there is.

    Args:
        name: `auto`, or one of `NUMERICS`.
        device: that the model runs on.
        dtype: of its weights; all but `plain` start from float32.
        config: its dimensions; by default those of a released Whisper, or like them.

    Raises:
        ValueError: if this device, dtype or CPU has no such numerics; it says which is missing.
    """
    reason = _why_not_packed(device, dtype)
    if name == "auto":
        return PLAIN if reason is not None else _fastest_packed(config)
    numerics = NUMERICS[name]
    missing = (reason or _why_not(numerics, config)) if numerics.is_packed else None
    if missing is not None:
        raise ValueError(f"numerics {name}: {missing}")
    return numerics


def has_tiles() -> bool:
    """Whether this CPU multiplies matrices of bfloat16 by tiles (AMX)."""
    return torch.cpu._is_amx_tile_supported()


@cache
def multiplies_bfloat16_faster() -> bool:
    """Whether this CPU multiplies matrices of bfloat16 clearly faster than float32: it is timed.

    The flag of the instructions does not say it. A decode step reads weights and gains by their
    half whatever products cost, so only the encoder is asked about.
    """
    factors = (torch.ones(_SIDE, _SIDE, dtype=dtype) for dtype in (_BF16, torch.float32))
    return is_clearly_faster(*(partial(torch.mm, x, x) for x in factors))


def _fastest_packed(config: WhisperConfig | None) -> Numerics:
    if _why_not(INT8, config) is not None:
        return PACKED
    if not torch.cpu._is_vnni_supported():
        return MIXED_DECODER  # products of 8-bit integers are as fast as those of float32
    if _why_not(MIXED, config) is None and (has_tiles() or multiplies_bfloat16_faster()):
        return MIXED
    return INT8


def _why_not_packed(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return what stands against packed weights, if anything does."""
    if device.type != "cpu":
        return f"is for CPUs, and the model runs on {device}"
    if dtype != torch.float32:
        return f"starts from weights in float32, not {str(dtype).removeprefix('torch.')}"
    if platform.machine() not in _MACHINES or not torch._C._has_mkldnn:
        return f"needs oneDNN on x86-64; this is {platform.machine()}"
    return None


def _why_not(numerics: Numerics, config: WhisperConfig | None) -> str | None:
    """Return which instructions of this CPU are missing, if any are.

    Without VNNI oneDNN adds products of 8-bit integers in 16 bits, which overflow; what is compiled
    does not. What is compiled reads bfloat16 without instructions for it.
    """
    is_compiled = library() is not None and (config is None or fits(config))
    in_integers = is_compiled and (config is None or config.n_audio_ffn % LANES == 0)
    if torch.int8 in numerics.dtypes and not (in_integers or torch.cpu._is_vnni_supported()):
        return "needs a CPU with avx512_vnni, or AVX2 and what is compiled"
    is_compiled = is_compiled and _BF16 not in (numerics.encoder, numerics.head)
    needs_bfloat16 = _BF16 in numerics.dtypes or numerics.decoder == torch.int8
    if needs_bfloat16 and not (is_compiled or torch.cpu._is_avx512_bf16_supported()):
        return "needs a CPU with avx512_bf16, and this one has none"
    return None
