"""Rules and weights of tokens as functions of `compiled.c`, where torch takes several passes each.

Knows nothing about what the rules are for, sampling, sequences or requests.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import torch
from torch import Tensor

from service.decoding.params import SpecialTokens
from service.model.compiled import address


class _Rules(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_void_p) for name in ("bias", "ruled", "last", "penultimate", "latest")
    ) + tuple((name, ctypes.c_int64) for name in ("n_vocab", "begin", "eot"))


@dataclass(frozen=True, slots=True)
class RuledRows:
    """What the rules know of b rows, as `RuleState` holds it.

    Attributes:
        bias: f32[b n_vocab].
        ruled, last, penultimate: bool[b 1].
        latest: i64[b 1].
    """

    bias: Tensor
    ruled: Tensor
    last: Tensor
    penultimate: Tensor
    latest: Tensor


def keep_rules(
    compiled: ctypes.CDLL, logits: Tensor, rows: RuledRows, special: SpecialTokens
) -> Tensor:
    """Return logits without what may not come next: f32[b n_vocab] -> f32[b n_vocab].

    Raises:
        ValueError: if they are others than those of the rows.
    """
    _check(logits, rows.bias.shape)
    logits = logits.contiguous()
    filtered = torch.empty_like(logits)
    rules = _Rules(
        address(rows.bias), address(rows.ruled), address(rows.last), address(rows.penultimate),
        address(rows.latest), special.n_vocab, special.timestamp_begin, special.eot,
    )  # fmt: skip
    compiled.keep_rules(
        ctypes.byref(rules), address(logits), ctypes.c_int64(len(logits)), address(filtered),
        torch.get_num_threads(),
    )  # fmt: skip
    return filtered


def weigh_tokens(compiled: ctypes.CDLL, logits: Tensor, tokens: Tensor) -> Tensor:
    """Return f64[b 3]: tokens, their log-probabilities, and whether those are no numbers.

    Args:
        compiled: the library.
        logits: f32[b n_vocab].
        tokens: i64[b], in the vocabulary.

    Raises:
        ValueError: if there are not as many of both.
    """
    _check(logits, (len(tokens), logits.shape[-1]))
    logits, tokens = logits.contiguous(), tokens.contiguous()
    weighed = torch.empty(len(tokens), 3, dtype=torch.float64)
    compiled.weigh_tokens(
        address(logits), address(tokens), ctypes.c_int64(len(tokens)),
        ctypes.c_int64(logits.shape[1]), address(weighed), torch.get_num_threads(),
    )  # fmt: skip
    return weighed


def _check(logits: Tensor, shape: tuple[int, ...]) -> None:
    """Raise where memory would be read that is none of theirs."""
    if logits.shape != shape or logits.dtype != torch.float32:
        raise ValueError(f"logits {tuple(logits.shape)} in {logits.dtype}, not {tuple(shape)}")
