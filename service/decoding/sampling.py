"""How a token is drawn from filtered logits, the same way whatever else is in the batch.

At temperature 0 a row takes its likeliest token. Otherwise it takes the maximum of
`logits / temperature + Gumbel noise`, which is a draw from the softmax (the Gumbel-max trick). The
noise is a hash of (seed, window, attempt, candidate, position, token) and not a generator's next
numbers, so it does not depend on who else draws.

Knows nothing about sequences or requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from service.decoding.params import NoiseKey, SequenceParams, SpecialTokens
from service.decoding.rules import RuleState

REDUCTION_ROWS = 4
"""Reductions over the vocabulary run on a multiple of this many rows: torch sums a single row on
the CPU in pieces, one a thread, and two rows in one piece each."""

_MASK_64 = (1 << 64) - 1
_WEYL = 0x9E3779B97F4A7C15
_MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def mix(value: int) -> int:
    """Return splitmix64's finaliser of a 64-bit number (Steele, Lea and Flood 2014)."""
    value = (value + _WEYL) & _MASK_64
    value = ((value ^ (value >> 30)) * _MIX[0]) & _MASK_64
    value = ((value ^ (value >> 27)) * _MIX[1]) & _MASK_64
    return value ^ (value >> 31)


def noise_base(key: NoiseKey) -> int:
    """Return the 64-bit number, as a signed one, that names this stream of noise."""
    base = 0
    for part in (key.seed, key.window, key.attempt, key.candidate):
        base = mix(base ^ (part & _MASK_64))
    return _signed(base)


def gumbel(bases: Tensor, positions: Tensor, tokens: Tensor) -> Tensor:
    """Return Gumbel noise: bases i64[b], positions i64[b], tokens i64[v] -> f32[b v]."""
    rows = _mix(bases + positions * _signed(_WEYL))  # [b]
    bits = _mix(rows[:, None] + tokens * _signed(_WEYL))  # [b v]
    uniform = (_shift(bits, 12).double() + 0.5) * 2.0**-52  # in (0, 1), exactly
    return (-(-uniform.log()).log()).float()


@dataclass(frozen=True, slots=True)
class Draw:
    """What was drawn for each row.

    Shapes: tokens i64[b]; packed f64[b 3]: the token, its log-probability after the rules at
    temperature 1, and 1.0 if the row failed (its logits were NaN, or no token was left).
    """

    tokens: Tensor
    packed: Tensor


class Sampler:
    """Applies the rules and draws, for rows that decode with different parameters.

    Args:
        special: the ids that the rules are about.
        rows: rows to hold.
        device: where logits live.
    """

    def __init__(
        self, special: SpecialTokens, rows: int, device: torch.device | str = "cpu"
    ) -> None:
        held = rows + REDUCTION_ROWS
        self.rules = RuleState(special, held, device)
        self._ids = torch.arange(special.n_vocab, device=device)
        self._sampled = [False] * held
        self._is_sampled = torch.zeros(held, 1, dtype=torch.bool, device=device)
        self._temperature = torch.ones(held, 1, device=device)
        self._base = torch.zeros(held, dtype=torch.int64, device=device)
        self._position = torch.zeros(held, dtype=torch.int64, device=device)

    def start(self, row: int, params: SequenceParams) -> None:
        """Make `row` ready for a new sequence.

        Raises:
            ValueError: if the temperature is negative or a suppressed token is not one.
        """
        if not params.temperature >= 0:
            raise ValueError(f"temperature {params.temperature} must be 0 or more")
        self.rules.start(row, params)
        sampled = params.temperature > 0
        self._sampled[row] = sampled
        self._is_sampled[row] = sampled
        self._temperature[row] = params.temperature if sampled else 1.0
        self._base[row] = noise_base(params.noise)
        self._position[row] = 0

    def move(self, source: int, target: int) -> None:
        """Copy the state of row `source` over row `target`."""
        self.rules.move(source, target)
        self._sampled[target] = self._sampled[source]
        for state in (self._is_sampled, self._temperature, self._base, self._position):
            state[target] = state[source]

    def draw_first(self, logits: Tensor, first: int, params: Sequence[SequenceParams]) -> Draw:
        """Draw the first token of rows `first ...`, which were started: f32[b n_vocab]."""
        filtered = torch.stack(
            [
                self.rules.filter_first(row_logits, first + i, row_params)
                for i, (row_logits, row_params) in enumerate(zip(logits, params, strict=True))
            ]
        )
        return self._draw(_pad_rows(filtered), first, logits.shape[0])

    def draw_next(self, logits: Tensor, first: int) -> Draw:
        """Draw the next token of rows `first ...`: f32[b n_vocab]."""
        filtered = self.rules.filter_next(_pad_rows(logits), first)
        return self._draw(filtered, first, logits.shape[0])

    def _draw(self, filtered: Tensor, first: int, n_rows: int) -> Draw:
        """Draw from filtered logits, of which the first `n_rows` count, and note the outcome."""
        logprobs = filtered.log_softmax(dim=-1)
        tokens = self._scores(filtered, first, n_rows).argmax(dim=-1)
        chosen = logprobs.gather(1, tokens[:, None])[:, 0].double()
        packed = torch.stack([tokens.double(), chosen, (~chosen.isfinite()).double()], dim=1)
        tokens = tokens[:n_rows]
        self.rules.update(tokens, first)
        self._position[first : first + n_rows] += 1
        return Draw(tokens, packed[:n_rows])

    def _scores(self, filtered: Tensor, first: int, n_rows: int) -> Tensor:
        """Return what to take the maximum of: the logits, with noise on the rows that sample."""
        if not any(self._sampled[first : first + n_rows]):
            return filtered
        rows = slice(first, first + filtered.shape[0])
        noise = gumbel(self._base[rows], self._position[rows], self._ids)
        noisy = filtered / self._temperature[rows] + noise
        return torch.where(self._is_sampled[rows], noisy, filtered)


def _pad_rows(logits: Tensor) -> Tensor:
    """Append rows of zeros up to a multiple of `REDUCTION_ROWS`."""
    return torch.nn.functional.pad(logits, (0, 0, 0, -logits.shape[0] % REDUCTION_ROWS))


def _signed(value: int) -> int:
    """A 64-bit number as torch's int64 has it."""
    return value - (1 << 64) if value >= 1 << 63 else value


def _shift(value: Tensor, bits: int) -> Tensor:
    """Shift an int64 right as if it had no sign."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _mix(value: Tensor) -> Tensor:
    """`mix` on int64 tensors, whose products wrap around."""
    value = value + _signed(_WEYL)
    value = (value ^ _shift(value, 30)) * _signed(_MIX[0])
    value = (value ^ _shift(value, 27)) * _signed(_MIX[1])
    return value ^ _shift(value, 31)
