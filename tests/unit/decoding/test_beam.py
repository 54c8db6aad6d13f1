"""Beam search and `best_of` against a plain reading of the reference, on a made-up language."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from service.decoding.beam import candidates
from service.decoding.hypotheses import (
    BeamSearch,
    BestOf,
    Candidates,
    Hypothesis,
    hypotheses_of,
    kept_beams,
)
from service.decoding.params import SequenceParams, SpecialTokens
from service.decoding.sampling import Sampler

EOT = 12
SPECIAL = SpecialTokens(
    eot=EOT, sot=13, no_speech=14, no_timestamps=15, timestamp_begin=16, blank=(3,), n_vocab=20
)
TEXT = SequenceParams((13,), 0, 9, timestamps=False, suppress_blank=False)


def logits_after(prefix: tuple[int, ...], seed: int) -> Tensor:
    """What a language of twelve words says after some of them, and when it stops."""
    noise = random.Random(repr((seed, prefix)))
    logits = torch.tensor([noise.gauss(0, 1.5) for _ in range(SPECIAL.n_vocab)])
    logits[EOT] += 0.3 * len(prefix) - 1
    logits[EOT + bool(prefix) :] = float("-inf")  # something is said first
    return logits


Scores = dict[tuple[int, ...], float]


def continuations(beams: Scores, beam_size: int, seed: int) -> Scores:
    """The likeliest continuations of every beam, with their scores."""
    scores: Scores = {}
    for prefix, total in beams.items():
        found = logits_after(prefix, seed).log_softmax(-1).topk(beam_size + 1)
        for logprob, token in zip(found.values, found.indices.tolist(), strict=True):
            scores[(*prefix, token)] = float(torch.tensor(total) + logprob)
    return dict(sorted(scores.items(), key=lambda item: item[1], reverse=True))


def reference(params: SequenceParams, seed: int) -> list[int]:
    """Search as openai/whisper does, one sequence after the other."""
    beam_size, wanted = params.n_rows, round(params.n_rows * (params.patience or 1.0))
    beams: Scores = {(): 0.0}
    finished: Scores = {}
    for _ in range(params.max_tokens):
        scores, beams = continuations(beams, beam_size, seed), {}
        for sequence, score in scores.items():
            if sequence[-1] != EOT:
                beams[sequence] = score
            elif len(finished) < wanted:
                finished[sequence] = score
            if len(beams) == beam_size:
                break
        if len(finished) >= wanted:
            break
    for sequence, score in beams.items():
        if len(finished) < beam_size:
            finished[(*sequence, EOT)] = score

    def rank(item: tuple[tuple[int, ...], float]) -> float:
        length = len(item[0]) - 1
        alpha = params.length_penalty
        return item[1] / (length if alpha is None else ((5 + length) / 6) ** alpha)

    return list(max(finished.items(), key=rank)[0])[:-1]


def search(all_params: list[SequenceParams], seeds: list[int]) -> list[Hypothesis]:
    """Search for several windows of one width at once, through sampler and account."""
    width = all_params[0].n_rows
    sampler = Sampler(SPECIAL, len(seeds) * width)
    accounts = [hypotheses_of(params, EOT) for params in all_params]
    prefixes: list[list[tuple[int, ...]]] = [[()] * width for _ in seeds]
    ended: dict[int, Hypothesis] = {}
    for step in range(all_params[0].max_tokens):
        if step == 0:
            drawn = []
            for window, (params, seed) in enumerate(zip(all_params, seeds, strict=True)):
                sampler.start(window * width, params)
                first = sampler.draw_first(logits_after((), seed), window * width, params)
                sampler.commit(first)
                drawn.append(candidates(first.packed[0].tolist()))
        else:
            logits = torch.stack(
                [
                    logits_after(prefix, seed)
                    for own, seed in zip(prefixes, seeds, strict=True)
                    for prefix in own
                ]
            )
            draw = sampler.draw_next(logits, 0, width)
            sampler.commit(draw)
            drawn = [candidates(row) for row in draw.packed.tolist()]
        for window, found in enumerate(drawn):
            assert not found.failed
            if window not in ended:
                accounts[window].push(found)
                if accounts[window].is_complete:
                    ended[window] = accounts[window].best()
            kept = kept_beams(found, width, EOT)
            prefixes[window] = [
                (*prefixes[window][found.sources[at]], found.tokens[at]) for at in kept
            ]
    return [ended.get(window) or accounts[window].best() for window in range(len(seeds))]


@pytest.mark.parametrize("beam_size", [2, 3, 5])
@pytest.mark.parametrize(
    ("patience", "length_penalty"), [(None, None), (2.0, None), (0.5, 0.6), (1.5, 1.0)]
)
def test_beams_find_what_the_reference_finds(
    beam_size: int, patience: float | None, length_penalty: float | None
) -> None:
    params = replace(TEXT, beam_size=beam_size, patience=patience, length_penalty=length_penalty)
    seeds = list(range(12))
    found = search([params] * len(seeds), seeds)
    lengths = set()
    for seed, hypothesis in zip(seeds, found, strict=True):
        tokens = [token for token in hypothesis.tokens if token != EOT]
        assert tokens == reference(params, seed), f"seed {seed}"
        assert len(hypothesis.logprobs) == len(hypothesis.tokens)
        lengths.add(len(tokens))
    assert len(lengths) > 1, "hypotheses that all end together prove little"


def test_window_finds_the_same_alone_and_beside_others() -> None:
    params = replace(TEXT, beam_size=4)
    together = search([params] * 5, [3, 1, 4, 1, 5])
    for window, seed in enumerate([3, 1, 4, 1, 5]):
        assert search([params], [seed]) == [together[window]]


def drawn(*tokens: int, logprobs: tuple[float, ...]) -> Candidates:
    return Candidates(tokens, logprobs, tuple(range(len(tokens))))


def test_best_of_keeps_the_candidate_of_the_highest_mean() -> None:
    account = BestOf(replace(TEXT, best_of=2, temperature=1.0), EOT)
    account.push(drawn(1, 2, logprobs=(-1.0, -1.5)))
    account.push(drawn(EOT, 3, logprobs=(-1.0, -0.1)))
    assert not account.is_complete
    account.push(drawn(7, EOT, logprobs=(-9.0, -0.1)))
    assert account.is_complete
    assert account.best() == Hypothesis((2, 3, EOT), (-1.5, -0.1, -0.1), has_ended=True)


@pytest.mark.parametrize(("penalty", "token"), [(None, 2), (0.0, 1)])
def test_length_penalty_says_how_much_a_long_hypothesis_costs(
    penalty: float | None, token: int
) -> None:
    account = BestOf(replace(TEXT, best_of=2, temperature=1.0, length_penalty=penalty), EOT)
    account.push(drawn(1, 2, logprobs=(-1.0, -0.6)))
    account.push(drawn(EOT, 2, logprobs=(0.0, -0.6)))
    account.push(drawn(EOT, EOT, logprobs=(0.0, 0.0)))
    assert account.best().tokens[0] == token


def test_hypothesis_without_a_token_does_not_divide_by_nothing() -> None:
    account = BestOf(replace(TEXT, best_of=2, temperature=1.0), EOT)
    account.push(drawn(EOT, EOT, logprobs=(-1.0, -2.0)))
    assert account.best().tokens == (EOT,)


def test_beams_that_go_on_count_when_too_few_have_ended() -> None:
    account = BeamSearch(replace(TEXT, beam_size=2), EOT)
    account.push(Candidates((EOT, 1, 2), (-0.9, -0.5, -1.0), (0, 0, 0), (-0.9, -0.5, -1.0)))
    assert not account.is_complete
    assert account.best() == Hypothesis((1,), (-0.5,), has_ended=False)


@pytest.mark.parametrize(
    "how",
    [
        {"beam_size": 2, "temperature": 0.2},
        {"beam_size": 0},
        {"best_of": 2},
        {"best_of": 0, "temperature": 1.0},
        {"patience": 1.0},
        {"patience": 0.1, "beam_size": 2},
        {"temperature": float("inf")},
    ],
)
def test_parameters_that_contradict_one_another_are_refused(how: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(how))):
        replace(TEXT, **how)  # type: ignore[arg-type]
