"""How a token is drawn from filtered logits, the same way whatever else is in the batch.

At temperature 0 a row takes its likeliest token. Otherwise it takes the maximum of
`logits / temperature + Gumbel noise`, which is a draw from the softmax (the Gumbel-max trick). The
noise is a hash of (seed, window, attempt, candidate, position, token) and not a generator's next
numbers, so it does not depend on who else draws.

Knows nothing about sequences or requests.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from service.decoding.beam import rank_beams
from service.decoding.compiled_rules import weigh_tokens
from service.decoding.params import NoiseKey, SequenceParams, SpecialTokens
from service.decoding.rules import RuleState
from service.model.compiled import library
from service.model.kv_cache import to_device

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
    uniform = _shift(bits, 12).double().add_(0.5).mul_(2.0**-52)  # in (0, 1), exactly
    return uniform.log_().neg_().log_().neg_().float()


@dataclass(frozen=True, slots=True)
class Draw:
    """What was drawn for the rows of one kind, from the row `row` on. `Sampler.commit` notes it.

    Shapes: tokens i64[b]; sources i64[b] and scores f32[b], of beams only: the row within the draw
    that each goes on from, and its cumulated log-probability. packed f64[n k]: what the host wants
    to know, `n` is `b` or, of beams, the windows (see `candidates`).
    """

    row: int
    tokens: Tensor
    packed: Tensor
    sources: Tensor | None = None
    scores: Tensor | None = None


class Sampler:
    """Applies the rules and draws, for rows that decode with different parameters.

    To draw changes nothing; `commit` does. So a step that fails halfway can be taken again.

    Args:
        special: the ids that the rules are about.
        rows: rows to hold, beside a spare one that idle rows of a step write to.
        device: where logits live.
    """

    def __init__(
        self, special: SpecialTokens, rows: int, device: torch.device | str = "cpu"
    ) -> None:
        held = rows + 1
        self.rules = RuleState(special, held, device)
        self._eot = special.eot
        self._ids = torch.arange(special.n_vocab, device=device)
        self._sampled = [False] * held
        self._is_sampled = torch.zeros(held, 1, dtype=torch.bool, device=device)
        self._temperature = torch.ones(held, 1, device=device)
        self._base = torch.zeros(held, dtype=torch.int64, device=device)
        self._position = torch.zeros(held, dtype=torch.int64, device=device)
        self._scores = torch.zeros(held, device=device)

    def start(self, row: int, params: SequenceParams) -> None:
        """Make the rows from `row` on, as many as it takes, ready for a new sequence.

        Raises:
            ValueError: if a suppressed token is not one.
        """
        sampled = params.temperature > 0
        for n in range(params.n_rows):
            at = row + n
            self.rules.start(at, params)
            self._sampled[at] = sampled
            self._is_sampled[at] = sampled
            self._temperature[at] = params.temperature if sampled else 1.0
            noise = params.noise
            self._base[at] = noise_base(replace(noise, candidate=noise.candidate + n))
            self._position[at] = 0
            self._scores[at] = 0.0

    def move(self, source: int, target: int, n_rows: int = 1) -> None:
        """Copy the state of the rows from `source` on over those from `target` on."""
        self.rules.move(source, target, n_rows)
        sources, targets = slice(source, source + n_rows), slice(target, target + n_rows)
        self._sampled[targets] = self._sampled[sources]
        for state in (
            self._is_sampled, self._temperature, self._base, self._position, self._scores,
        ):  # fmt: skip
            state[targets] = state[sources].clone()

    def draw_first(self, logits: Tensor, row: int, params: SequenceParams) -> Draw:
        """Draw the first tokens of a sequence that was started on `row`: f32[n_vocab]."""
        filtered = self.rules.filter_first(logits, row, params)[None]
        if params.is_beam:
            return self._select(filtered, row, params.n_rows)
        if params.n_rows > 1:
            filtered = filtered.expand(params.n_rows, -1)
        return self._draw(filtered, row)

    def draw_next(self, logits: Tensor, row: int, beam_size: int | None = None) -> Draw:
        """Draw the next token of the rows from `row` on: f32[b n_vocab].

        Args:
            logits: of the rows.
            row: the first one.
            beam_size: if the rows are those of beam searches of this size.
        """
        filtered = self.rules.filter_next(logits, row)
        if beam_size is not None:
            return self._select(filtered, row, beam_size)
        return self._draw(filtered, row)

    def draw_fixed(self, logits: Tensor, *, with_noise: bool) -> Draw:
        """Draw the next token of the first rows, f32[b n_vocab], as `draw_next` does for each.

        What is computed depends on the arguments alone and not on what the host knows of the rows.

        Args:
            logits: of the rows; some may hold no sequence.
            with_noise: whether rows among them sample; if not, no noise is made.
        """
        filtered = self.rules.filter_next(logits, 0, looks=False)
        choices = self._noisy(filtered, 0) if with_noise else filtered
        return _chosen(filtered, choices.argmax(dim=-1), 0)

    def is_sampled(self, row: int, n_rows: int) -> bool:
        """Whether any of the rows from `row` on samples at a temperature."""
        return any(self._sampled[row : row + n_rows])

    def commit(self, draw: Draw, rows: Tensor | None = None) -> None:
        """Note what was drawn as the rows' last tokens; or as those of other rows, i64[b]."""
        own = slice(draw.row, draw.row + len(draw.tokens)) if rows is None else rows
        if draw.sources is not None and draw.scores is not None:
            self.rules.reorder(draw.row, draw.sources)
            self._scores[own] = draw.scores
        self.rules.update(draw.tokens, draw.row, own)
        self._position[own] += 1

    def _draw(self, filtered: Tensor, row: int) -> Draw:
        """Draw one token a row from filtered logits."""
        n_rows = filtered.shape[0]
        sampled = [n for n in range(n_rows) if self._sampled[row + n]]
        if not sampled:
            choices = filtered
        elif len(sampled) == n_rows:
            choices = self._noisy(filtered, row)
        else:
            choices = self._noisy_among(filtered, row, sampled)
        return _chosen(filtered, self._largest(choices), row)

    def _largest(self, values: Tensor) -> Tensor:
        """Return where each row's largest value is, or its first NaN: [b v] -> i64[b].

        numpy's search is several times faster than torch's on a CPU.
        """
        if self.rules.looks:
            return torch.from_numpy(values.numpy().argmax(axis=-1))
        return values.argmax(dim=-1)

    def _noisy_among(self, filtered: Tensor, row: int, sampled: list[int]) -> Tensor:
        """Return what `_noisy` does, and make noise for none but the rows that sample.

        A row's noise costs more than all of its rules.
        """
        at = to_device(sampled, filtered.device)
        noise = gumbel(self._base[row + at], self._position[row + at], self._ids)
        return filtered.index_copy(0, at, filtered[at] / self._temperature[row + at] + noise)

    def _noisy(self, filtered: Tensor, row: int) -> Tensor:
        """Return what to take the maximum of: the logits, with noise on the rows that sample."""
        rows = slice(row, row + filtered.shape[0])
        noise = gumbel(self._base[rows], self._position[rows], self._ids)
        noisy = filtered / self._temperature[rows] + noise
        return torch.where(self._is_sampled[rows], noisy, filtered)

    def _select(self, filtered: Tensor, row: int, beam_size: int) -> Draw:
        """Choose the beams that go on, from filtered logits.

        In the first step a window has one row, which all beams go on from.
        """
        logprobs = filtered.log_softmax(dim=-1)
        found = logprobs.topk(min(beam_size + 1, logprobs.shape[-1]), dim=-1)
        scores = self._scores[row : row + filtered.shape[0]]
        beams = rank_beams(found.values, found.indices, scores, beam_size, self._eot)
        return Draw(row, beams.tokens, beams.packed, beams.sources, beams.scores)


def _chosen(filtered: Tensor, tokens: Tensor, row: int) -> Draw:
    """Note the tokens that the rows from `row` on draw: f32[b n_vocab], i64[b]."""
    if filtered.device.type == "cpu" and (compiled := library()) is not None:
        return Draw(row, tokens, weigh_tokens(compiled, filtered, tokens))
    chosen = filtered.log_softmax(dim=-1).gather(1, tokens[:, None])[:, 0].double()
    packed = torch.stack([tokens.double(), chosen, (~chosen.isfinite()).double()], dim=1)
    return Draw(row, tokens, packed)


def _signed(value: int) -> int:
    """A 64-bit number as torch's int64 has it."""
    return value - (1 << 64) if value >= 1 << 63 else value


def _shift(value: Tensor, bits: int) -> Tensor:
    """Shift an int64 right as if it had no sign."""
    return (value >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _mix(value: Tensor) -> Tensor:
    """`mix` on int64 tensors, whose products wrap around; in place, which takes half the time."""
    mixed = value + _signed(_WEYL)
    mixed.bitwise_xor_(_shift(mixed, 30)).mul_(_signed(_MIX[0]))
    mixed.bitwise_xor_(_shift(mixed, 27)).mul_(_signed(_MIX[1]))
    return mixed.bitwise_xor_(_shift(mixed, 31))
