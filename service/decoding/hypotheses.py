"""The hypotheses of one window: which have ended, and which is the best. No torch.

The algorithm is openai/whisper's (`decoding.py`: `BeamSearchDecoder`, the several candidates of
`GreedyDecoder`, `MaximumLikelihoodRanker`). The device draws; this is the account of it. A
hypothesis is a chain of links to the one that it goes on from, so a step costs the same however
long they are.

Knows nothing about logits, rows or requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from service.decoding.params import SequenceParams


@dataclass(frozen=True, slots=True)
class Candidates:
    """What was drawn in one step for a sequence of several hypotheses.

    Candidates of `best_of`: one a hypothesis, in their order. Of a beam search: the likeliest
    continuations of all beams, by falling score; `kept_beams` says which go on.

    Attributes:
        tokens: the token of each.
        logprobs: its log-probability after the rules, at temperature 1.
        sources: the hypothesis that it goes on from.
        scores: cumulated log-probability; of a beam search only.
        failed: whether a row's logits were NaN or the rules left no token.
        no_speech_prob: probability of <|nospeech|> at <|startoftranscript|>; first step only.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    sources: tuple[int, ...]
    scores: tuple[float, ...] = ()
    failed: bool = False
    no_speech_prob: float | None = None


def kept_beams(candidates: Candidates, beam_size: int, eot: int) -> list[int]:
    """Return the places of the candidates that go on: the first that are not end-of-text."""
    going_on = [i for i, token in enumerate(candidates.tokens) if token != eot]
    return going_on[:beam_size]


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """Tokens that were decoded, with the log-probability of each.

    Attributes:
        tokens: end-of-text is the last one, if it has come to that.
        logprobs: of each.
        has_ended: whether end-of-text was drawn.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    has_ended: bool


class Hypotheses(Protocol):
    """The hypotheses of one sequence."""

    def push(self, candidates: Candidates) -> None:
        """Take the next step."""
        ...

    @property
    def is_complete(self) -> bool:
        """Whether no further step is needed."""
        ...

    def best(self) -> Hypothesis:
        """Return the one that ranks first, of those that have ended and those that have not."""
        ...


def hypotheses_of(params: SequenceParams, eot: int) -> Hypotheses:
    """Return the account of a sequence of several hypotheses that has just begun."""
    return BeamSearch(params, eot) if params.is_beam else BestOf(params, eot)


class _Link(NamedTuple):
    token: int
    logprob: float
    before: _Link | None


class _Ended(NamedTuple):
    score: float
    last: _Link | None
    has_ended: bool


def _chain(ended: _Ended) -> Hypothesis:
    tokens: list[int] = []
    logprobs: list[float] = []
    link = ended.last
    while link is not None:
        tokens.append(link.token)
        logprobs.append(link.logprob)
        link = link.before
    return Hypothesis(tuple(tokens[::-1]), tuple(logprobs[::-1]), ended.has_ended)


def _best(ended: Sequence[_Ended], length_penalty: float | None) -> Hypothesis:
    """Return the first of the highest rank. Without end-of-text, a length of 0 counts as 1."""
    chains = [_chain(one) for one in ended]
    ranks = []
    for one, chain in zip(ended, chains, strict=True):
        length = max(len(chain.tokens) - chain.has_ended, 1)
        penalty = length if length_penalty is None else ((5 + length) / 6) ** length_penalty
        ranks.append(one.score / penalty)
    return chains[max(range(len(ranks)), key=ranks.__getitem__)]


class BestOf:
    """Candidates that are sampled side by side, each to its own end."""

    def __init__(self, params: SequenceParams, eot: int) -> None:
        self._eot = eot
        self._length_penalty = params.length_penalty
        self._candidates = [_Ended(0.0, None, has_ended=False)] * params.n_rows

    def push(self, candidates: Candidates) -> None:
        """Take the next step; what has ended goes on without counting."""
        drawn = zip(self._candidates, candidates.tokens, candidates.logprobs, strict=True)
        self._candidates = [
            one
            if one.has_ended
            else _Ended(one.score + logprob, _Link(token, logprob, one.last), token == self._eot)
            for one, token, logprob in drawn
        ]

    @property
    def is_complete(self) -> bool:
        """Whether every candidate has ended."""
        return all(one.has_ended for one in self._candidates)

    def best(self) -> Hypothesis:
        """Return the candidate of the highest rank."""
        return _best(self._candidates, self._length_penalty)


class BeamSearch:
    """A beam search with patience (Kasai et al. 2022)."""

    def __init__(self, params: SequenceParams, eot: int) -> None:
        self._eot = eot
        self._beam_size = params.n_rows
        self._wanted = round(params.n_rows * (params.patience or 1.0))
        self._length_penalty = params.length_penalty
        self._beams: list[_Ended] = [_Ended(0.0, None, has_ended=False)] * params.n_rows
        self._ended: list[_Ended] = []

    def push(self, candidates: Candidates) -> None:
        """Take the next step: what ends before the last beam is filled counts, best first."""
        kept = kept_beams(candidates, self._beam_size, self._eot)
        continued = [
            _Ended(score, _Link(token, logprob, self._beams[source].last), token == self._eot)
            for token, logprob, source, score in zip(
                candidates.tokens,
                candidates.logprobs,
                candidates.sources,
                candidates.scores,
                strict=True,
            )
        ]
        ended = [one for one in continued[: kept[-1]] if one.has_ended]
        self._ended += ended[: self._wanted - len(self._ended)]
        self._beams = [continued[i] for i in kept]

    @property
    def is_complete(self) -> bool:
        """Whether enough hypotheses have ended."""
        return len(self._ended) >= self._wanted

    def best(self) -> Hypothesis:
        """Return the highest rank; beams that go on count if too few have ended."""
        missing = max(self._beam_size - len(self._ended), 0)
        going_on = sorted(self._beams, key=lambda beam: beam.score, reverse=True)
        return _best([*self._ended, *going_on[:missing]], self._length_penalty)
