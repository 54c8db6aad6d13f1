"""Drawing: exact at temperature 0, distributed right above, and the same whatever the batch."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from service.decoding.params import NoiseKey, SequenceParams, SpecialTokens
from service.decoding.sampling import Draw, Sampler, gumbel, mix, noise_base

pytestmark = pytest.mark.usefixtures("either_way")

N_VOCAB = 60
SPECIAL = SpecialTokens(
    eot=30, sot=31, no_speech=32, no_timestamps=33, timestamp_begin=34, blank=(3,), n_vocab=N_VOCAB
)
GREEDY = SequenceParams((31,), 0, 50, timestamps=False, suppress_blank=False)


def sampling(seed: int, temperature: float = 0.8) -> SequenceParams:
    return replace(GREEDY, temperature=temperature, noise=NoiseKey(seed))


def logits_of(n_rows: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(n_rows, N_VOCAB, generator=generator)


def started(*params: SequenceParams) -> Sampler:
    sampler = Sampler(SPECIAL, len(params))
    for row, row_params in enumerate(params):
        sampler.start(row, row_params)
    return sampler


def drawn(sampler: Sampler, logits: torch.Tensor, row: int = 0) -> Draw:
    """Draw the next tokens and note them."""
    draw = sampler.draw_next(logits, row)
    sampler.commit(draw)
    return draw


def test_greedy_rows_take_the_likeliest_token_and_its_log_probability() -> None:
    logits = logits_of(3)
    draw = started(GREEDY, GREEDY, GREEDY).draw_next(logits, 0)
    assert draw.tokens.tolist() == logits.argmax(-1).tolist()
    expected = logits.log_softmax(-1).amax(-1)
    assert draw.packed[:, 1].tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    assert draw.packed[:, 2].tolist() == [0, 0, 0]


def test_log_probability_is_at_temperature_one_and_after_the_rules() -> None:
    params = replace(sampling(7, temperature=3.0), suppress_tokens=(0, 1, 2))
    logits = logits_of(1)
    draw = started(params).draw_next(logits, 0)
    logits[:, :3] = float("-inf")
    expected = logits.log_softmax(-1)[0, draw.tokens[0]]
    assert draw.packed[0, 1].item() == pytest.approx(expected.item())


def test_drawn_tokens_follow_the_softmax() -> None:
    """Chi-square over 4000 draws: under 60 for 29 degrees of freedom has p > 0.0005."""
    n_rows, n_steps, temperature = 500, 8, 1.5
    logits = torch.linspace(-2, 2, 30)
    rows = torch.full((n_rows, N_VOCAB), float("-inf"))
    rows[:, :30] = logits
    sampler = started(*(sampling(seed, temperature) for seed in range(n_rows)))
    tokens = torch.cat([drawn(sampler, rows).tokens for _ in range(n_steps)])
    counts = tokens.bincount(minlength=30)
    expected = (logits / temperature).softmax(-1) * n_rows * n_steps
    chi_square = ((counts - expected) ** 2 / expected).sum().item()
    assert 8 < chi_square < 60


def test_noise_differs_in_every_part_of_its_key() -> None:
    keys = [
        NoiseKey(), NoiseKey(seed=1), NoiseKey(window=1), NoiseKey(attempt=1),
        NoiseKey(candidate=1), NoiseKey(seed=-1), NoiseKey(seed=1, window=1),
    ]  # fmt: skip
    bases = torch.tensor([noise_base(key) for key in keys])
    noise = gumbel(bases, torch.zeros(len(keys), dtype=torch.int64), torch.arange(N_VOCAB))
    later = gumbel(bases, torch.ones(len(keys), dtype=torch.int64), torch.arange(N_VOCAB))
    values = torch.cat([noise, later]).flatten().tolist()
    assert len(set(values)) == len(values)


def test_noise_has_the_mean_of_gumbels_distribution() -> None:
    noise = gumbel(torch.arange(50), torch.arange(50), torch.arange(2000))
    assert noise.isfinite().all()
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.02)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, abs=0.05)


def test_hash_is_splitmix64() -> None:
    """The first two numbers that the published generator gives from state 0."""
    assert mix(0) == 0xE220A8397B1DCDAF
    assert mix(0x9E3779B97F4A7C15) == 0x6E789E6AA1B965F4


@pytest.mark.parametrize("n_vocab", [1001, 51865])
def test_noise_of_a_row_has_the_same_bits_in_every_batch(threads: int, n_vocab: int) -> None:
    bases, positions = torch.arange(5) ** 5, torch.arange(5)
    tokens = torch.arange(n_vocab)
    alone = [gumbel(bases[i : i + 1], positions[i : i + 1], tokens)[0] for i in range(5)]
    for n_rows in (2, 3, 5):
        together = gumbel(bases[:n_rows], positions[:n_rows], tokens)
        assert all(torch.equal(together[i], alone[i]) for i in range(n_rows))


@pytest.mark.parametrize("n_vocab", [N_VOCAB, 51865])
def test_row_draws_the_same_bits_alone_and_beside_others(threads: int, n_vocab: int) -> None:
    special = replace(SPECIAL, n_vocab=n_vocab)
    params = [sampling(seed) if seed % 2 else GREEDY for seed in range(6)]
    params[4] = replace(params[4], timestamps=True)
    generator = torch.Generator().manual_seed(5)
    steps = [3 * torch.randn(6, n_vocab, generator=generator) for _ in range(3)]

    def run(rows: list[int]) -> list[list[list[float]]]:
        sampler = Sampler(special, len(rows))
        for place, row in enumerate(rows):
            sampler.start(place, params[row])
        first = [
            sampler.draw_first(steps[0][row], place, params[row]) for place, row in enumerate(rows)
        ]
        for draw in first:
            sampler.commit(draw)
        packed = [torch.cat([draw.packed for draw in first])]
        packed += [drawn(sampler, step[rows]).packed for step in steps[1:]]
        return [[own[place].tolist() for own in packed] for place in range(len(rows))]

    alone = [run([row])[0] for row in range(6)]
    for rows in ([4, 1], list(range(6))):
        assert run(rows) == [alone[row] for row in rows]


def test_noise_is_made_for_no_row_but_those_that_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def counted(bases: torch.Tensor, positions: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        made.append(len(bases))
        return gumbel(bases, positions, tokens)

    monkeypatch.setattr("service.decoding.sampling.gumbel", counted)
    logits = logits_of(8)
    params = [sampling(3), GREEDY, GREEDY, sampling(4), GREEDY, GREEDY, GREEDY, GREEDY]
    draw = started(*params).draw_next(logits, 0)
    assert made == [2]
    alone = [started(params[n]).draw_next(logits[n : n + 1], 0).packed[0] for n in range(8)]
    assert draw.packed.tolist() == torch.stack(alone).tolist()


def test_row_of_nan_fails_and_its_neighbours_do_not() -> None:
    logits = logits_of(3)
    expected = started(GREEDY, sampling(1), sampling(2)).draw_next(logits, 0).packed
    broken = logits.clone()
    broken[1, 17] = float("nan")
    packed = started(GREEDY, sampling(1), sampling(2)).draw_next(broken, 0).packed
    assert packed[:, 2].tolist() == [0, 1, 0]
    assert packed[0].equal(expected[0])
    assert packed[2].equal(expected[2])


def test_row_without_a_token_left_fails() -> None:
    params = replace(GREEDY, suppress_tokens=tuple(range(N_VOCAB)))
    assert started(params).draw_next(logits_of(1), 0).packed[0, 2] == 1


def test_moved_row_goes_on_with_its_noise() -> None:
    steps = [logits_of(1, seed) for seed in range(6)]
    stayed, moved = started(sampling(4)), started(GREEDY, GREEDY, sampling(4))
    expected = [drawn(stayed, step).packed.tolist() for step in steps]
    found = [drawn(moved, step, 2).packed.tolist() for step in steps[:3]]
    moved.move(2, 0)
    found += [drawn(moved, step).packed.tolist() for step in steps[3:]]
    assert found == expected


def test_drawing_again_without_committing_draws_the_same() -> None:
    sampler, logits = started(sampling(4), GREEDY), logits_of(2)
    first, again = sampler.draw_next(logits, 0), sampler.draw_next(logits, 0)
    assert first.packed.tolist() == again.packed.tolist()


def test_candidates_of_a_sequence_draw_with_noise_of_their_own() -> None:
    """The third candidate draws what a sequence with that candidate's key draws alone."""
    params = replace(sampling(4, 2.0), best_of=4)
    several = Sampler(SPECIAL, 6)
    several.start(1, params)
    alone = started(replace(sampling(4, 2.0), noise=NoiseKey(4, candidate=2)))
    logits = logits_of(1)[0]
    first, expected = several.draw_first(logits, 1, params), alone.draw_first(logits, 0, GREEDY)
    assert first.packed.shape == (4, 3)
    assert first.packed[2].tolist() == expected.packed[0].tolist()
    for sampler, draw in ((several, first), (alone, expected)):
        sampler.commit(draw)
    tokens = {tuple(drawn(several, logits.expand(4, -1), 1).tokens.tolist()) for _ in range(5)}
    assert len(tokens) == 5


def test_same_seed_repeats_and_another_does_not() -> None:
    steps = [logits_of(1, seed) for seed in range(12)]

    def tokens(seed: int) -> list[int]:
        sampler = started(sampling(seed, 2.0))
        return [int(drawn(sampler, step).tokens[0]) for step in steps]

    assert tokens(1) == tokens(1) != tokens(2)


@pytest.mark.parametrize("temperature", [-0.1, float("nan")])
def test_bad_temperature_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        started(replace(GREEDY, temperature=temperature))


@pytest.mark.parametrize("at", [(), (0,), (7, 3)])
def test_row_that_is_not_a_number_is_told_apart_whoever_searches(at: tuple[int, ...]) -> None:
    logits = logits_of(3)
    logits[1, list(at)] = float("nan")
    sampler = started(GREEDY, GREEDY, GREEDY)
    for looks in (True, False):
        sampler.rules.looks = looks
        draw = sampler.draw_next(logits, 0)
        fixed = sampler.draw_fixed(logits, with_noise=False)
        assert torch.equal(draw.packed.nan_to_num(7.0), fixed.packed.nan_to_num(7.0))
        assert draw.packed[:, 2].tolist() == [0, float(bool(at)), 0]
