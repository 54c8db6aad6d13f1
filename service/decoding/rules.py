"""Whisper's logit rules, for a batch of rows at once and without waiting for the device.

The rules and their order are those of openai/whisper `decoding.py`: `SuppressBlank`,
`SuppressTokens`, `ApplyTimestampRules`. There they loop over rows in Python; here what a row has
sampled so far is summed up in four values that live on the device, so a step is a handful of tensor
operations whatever the number of rows, and fewer where none decodes with timestamps; on a CPU it is
one compiled function, where that was built. Every operation works on one row at a time, so a row's
bits do not depend on its neighbours.

Knows nothing about sampling, sequences or requests.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from service.decoding.compiled_rules import RuledRows, keep_rules
from service.decoding.params import SequenceParams, SpecialTokens
from service.model.compiled import library

NEGATIVE_INFINITY = float("-inf")
_SUMMED_ROWS = 4
"""Sums over timestamps run on a multiple of this many rows: torch sums a single row on the CPU in
pieces, one a thread, and two rows in one piece each."""
_REMEMBERED = 16
"""Lists of suppressed tokens that are kept on the device as a bias."""


class RuleState:
    """What the rules know of each row.

    For a row that decodes with timestamps: whether the last and the last but one sampled token
    were timestamps, and the latest timestamp. `last` and `penultimate` start as True: after the
    first token `penultimate` is then True, which is the reference's rule for a sequence of one.

    Args:
        special: the ids that the rules are about.
        rows: rows to hold.
        device: where logits live.

    Attributes:
        looks: whether the host looks at values on its way, and does what they ask for and no more.
            A CPU is not waited for; of a GPU no step may ask anything.
    """

    def __init__(
        self, special: SpecialTokens, rows: int, device: torch.device | str = "cpu"
    ) -> None:
        self.special = special
        self.device = torch.device(device)
        self.looks = self.device.type == "cpu"
        n_vocab, begin = special.n_vocab, special.timestamp_begin
        self._ids = torch.arange(n_vocab, device=device)
        self._biases: dict[tuple[tuple[int, ...], bool], Tensor] = {}
        self._bias = torch.zeros(rows, n_vocab, device=device)
        self._ruled = [False] * rows
        self._timestamps = torch.zeros(rows, 1, dtype=torch.bool, device=device)
        self._last = torch.ones(rows, 1, dtype=torch.bool, device=device)
        self._penultimate = torch.ones(rows, 1, dtype=torch.bool, device=device)
        self._latest = torch.full((rows, 1), begin - 1, device=device)
        blank = torch.zeros(n_vocab)
        blank[[*special.blank, special.eot]] = NEGATIVE_INFINITY
        self._blank = blank.to(device)

    def start(self, row: int, params: SequenceParams) -> None:
        """Make `row` ready for a new sequence.

        Raises:
            ValueError: if a suppressed token is outside the vocabulary.
        """
        self._bias[row] = self._suppress(params.suppress_tokens, params.timestamps)
        self._ruled[row] = params.timestamps
        self._timestamps[row] = params.timestamps
        self._last[row] = True
        self._penultimate[row] = True
        self._latest[row] = self.special.timestamp_begin - 1

    def move(self, source: int, target: int, n_rows: int = 1) -> None:
        """Copy the state of the rows from `source` on over those from `target` on."""
        sources, targets = slice(source, source + n_rows), slice(target, target + n_rows)
        for state in (self._bias, self._timestamps, self._last, self._penultimate, self._latest):
            state[targets] = state[sources].clone()
        self._ruled[targets] = self._ruled[sources]

    def reorder(self, first: int, sources: Tensor) -> None:
        """Let rows `first ...` go on from others of them: sources i64[b], counted from `first`.

        Rows change places within a sequence only, whose rules are the same.
        """
        rows = slice(first, first + sources.shape[0])
        for state in (self._last, self._penultimate, self._latest):
            state[rows] = state[rows][sources]

    def filter_first(self, logits: Tensor, row: int, params: SequenceParams) -> Tensor:
        """Apply the rules to the first sampled token of one row: f32[n_vocab] -> f32[n_vocab]."""
        filtered = logits + self._bias[row]
        if params.suppress_blank:
            filtered += self._blank
        if params.timestamps:
            begin = self.special.timestamp_begin
            filtered[:begin] = NEGATIVE_INFINITY
            if params.max_initial_timestamp_index is not None:
                filtered[begin + params.max_initial_timestamp_index + 1 :] = NEGATIVE_INFINITY
        return filtered

    def filter_next(self, logits: Tensor, first: int, *, looks: bool = True) -> Tensor:
        """Apply the rules to later tokens of rows `first ...`: f32[b n_vocab] -> f32[b n_vocab].

        Args:
            logits: of rows that may hold no sequence; the results of those mean nothing.
            first: the first row.
            looks: False does the same operations whatever the values are.
        """
        rows = slice(first, first + logits.shape[0])
        looks = looks and self.looks
        if looks and (compiled := library()) is not None:
            return keep_rules(compiled, logits, self._of(rows), self.special)
        filtered = self.suppress(logits, rows)
        if looks and not any(self._ruled[rows]):
            return filtered
        self.keep_order(filtered, rows, looks=looks)
        self.weigh(filtered, rows, looks=looks)
        return filtered

    def _of(self, rows: slice) -> RuledRows:
        return RuledRows(
            self._bias[rows], self._timestamps[rows], self._last[rows], self._penultimate[rows],
            self._latest[rows],
        )  # fmt: skip

    def suppress(self, logits: Tensor, rows: slice) -> Tensor:
        """Return logits without the suppressed tokens of each row: f32[b n_vocab]."""
        return logits + self._bias[rows]

    def keep_order(self, filtered: Tensor, rows: slice, *, looks: bool) -> None:
        """Leave timestamps only where they make pairs and do not go back, in place."""
        begin = self.special.timestamp_begin
        ruled, last, penultimate = (
            self._timestamps[rows], self._last[rows], self._penultimate[rows],
        )  # fmt: skip
        text, timestamps = filtered[:, :begin], filtered[:, begin:]
        opened = ruled & last & ~penultimate  # one timestamp: its partner or end-of-text follows
        closed = ruled & last & penultimate  # a pair: text has to follow
        _forbid(text[:, : self.special.eot], opened, looks=looks)
        # A pair may hold the same time twice, but a segment may not be empty.
        earliest = self._latest[rows] + (~opened).long()
        early = self._ids[begin:] < earliest  # [b n_timestamps]
        timestamps.masked_fill_(closed | (ruled & early), NEGATIVE_INFINITY)

    def weigh(self, filtered: Tensor, rows: slice, *, looks: bool) -> None:
        """Leave no text where all timestamps together are likelier than any of it, in place."""
        begin = self.special.timestamp_begin
        text, timestamps = filtered[:, :begin], filtered[:, begin:]
        n_rows = filtered.shape[0]
        summed = pad(timestamps, (0, 0, 0, -n_rows % _SUMMED_ROWS))
        mass = summed.logsumexp(dim=-1, keepdim=True)[:n_rows]
        likelier = mass > text.amax(dim=-1, keepdim=True)
        _forbid(text, self._timestamps[rows] & likelier, looks=looks)

    def update(self, tokens: Tensor, first: int, rows: Tensor | slice | None = None) -> None:
        """Note what rows `first ...` have sampled, i64[b]; or these rows, which may be others."""
        if rows is None:
            rows = slice(first, first + tokens.shape[0])
        if self.looks and isinstance(rows, slice) and not any(self._ruled[rows]):
            return
        tokens = tokens[:, None]
        is_timestamp = tokens >= self.special.timestamp_begin
        self._penultimate[rows] = self._last[rows]
        self._last[rows] = is_timestamp
        self._latest[rows] = torch.where(is_timestamp, tokens, self._latest[rows])

    def _suppress(self, tokens: tuple[int, ...], timestamps: bool) -> Tensor:
        """Return the constant bias f32[n_vocab] of a list of suppressed tokens."""
        key = (tokens, timestamps)
        if key not in self._biases:
            outside = [token for token in tokens if not 0 <= token < self.special.n_vocab]
            if outside:
                raise ValueError(f"suppress_tokens {outside} are not in 0..{self.special.n_vocab}")
            bias = torch.zeros(self.special.n_vocab)
            bias[list(tokens)] = NEGATIVE_INFINITY
            if timestamps:
                bias[self.special.no_timestamps] = NEGATIVE_INFINITY
            if len(self._biases) >= _REMEMBERED:
                self._biases.pop(next(iter(self._biases)))
            self._biases[key] = bias.to(self.device)
        return self._biases[key]


def _forbid(logits: Tensor, rows: Tensor, *, looks: bool) -> None:
    """Leave nothing of some rows, in place: f32[b n], bool[b 1]. Who looks writes only to these."""
    if looks:
        logits.index_fill_(0, rows[:, 0].nonzero()[:, 0], NEGATIVE_INFINITY)
    else:
        logits.masked_fill_(rows, NEGATIVE_INFINITY)
