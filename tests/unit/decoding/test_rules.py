"""The batched rules against a row-by-row reading of the reference, on random logits."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from service.decoding.params import SequenceParams, SpecialTokens
from service.decoding.rules import RuleState

pytestmark = pytest.mark.usefixtures("either_way")

SPECIAL = SpecialTokens(
    eot=20, sot=21, no_speech=22, no_timestamps=23, timestamp_begin=24, blank=(3, 4), n_vocab=40
)
NEVER = float("-inf")


def reference(logits: list[float], sampled: list[int], params: SequenceParams) -> list[float]:
    """Whisper's rules for one row, in plain Python."""
    logits = list(logits)
    if params.suppress_blank and not sampled:
        for token in (*SPECIAL.blank, SPECIAL.eot):
            logits[token] = NEVER
    for token in params.suppress_tokens:
        logits[token] = NEVER
    return with_timestamps(logits, sampled, params) if params.timestamps else logits


def with_timestamps(logits: list[float], sampled: list[int], params: SequenceParams) -> list[float]:
    begin, end = SPECIAL.timestamp_begin, SPECIAL.n_vocab
    last_is_timestamp = len(sampled) >= 1 and sampled[-1] >= begin
    penultimate_is_timestamp = len(sampled) < 2 or sampled[-2] >= begin
    forbidden = {SPECIAL.no_timestamps}
    if last_is_timestamp:
        forbidden |= set(range(begin, end) if penultimate_is_timestamp else range(SPECIAL.eot))
    timestamps = [token for token in sampled if token >= begin]
    if timestamps:
        may_repeat = last_is_timestamp and not penultimate_is_timestamp
        forbidden |= set(range(begin, timestamps[-1] + (0 if may_repeat else 1)))
    if not sampled:
        latest = params.max_initial_timestamp_index
        forbidden |= set(range(begin))
        forbidden |= set(range(end if latest is None else begin + latest + 1, end))
    logits = [NEVER if token in forbidden else value for token, value in enumerate(logits)]
    largest = max(logits)
    mass = sum(math.exp(value - largest) for value in logits[begin:])
    if mass > math.exp(max(logits[:begin]) - largest):
        logits[:begin] = [NEVER] * begin
    return logits


def row_params(draw: st.DrawFn) -> SequenceParams:
    return SequenceParams(
        prompt=(SPECIAL.sot,),
        sot_index=0,
        max_tokens=20,
        timestamps=draw(st.booleans()),
        suppress_blank=draw(st.booleans()),
        suppress_tokens=tuple(draw(st.lists(st.integers(0, 19), max_size=3, unique=True))),
        max_initial_timestamp_index=draw(st.none() | st.integers(0, 5)),
    )


@st.composite
def rows(draw: st.DrawFn) -> list[tuple[SequenceParams, int]]:
    n_rows = draw(st.integers(1, 5))
    return [(row_params(draw), draw(st.integers(0, 2**30))) for _ in range(n_rows)]


def assert_same(filtered: Tensor, expected: list[float], where: str) -> None:
    assert filtered.tolist() == pytest.approx(expected), where


@settings(max_examples=60)
@given(rows(), st.floats(0.5, 4.0))
def test_rules_are_the_references_for_every_row_and_step(
    batch: list[tuple[SequenceParams, int]], spread: float
) -> None:
    state = RuleState(SPECIAL, len(batch))
    generator = torch.Generator().manual_seed(batch[0][1])
    sampled: list[list[int]] = [[] for _ in batch]
    for row, (params, _) in enumerate(batch):
        state.start(row, params)
    for step in range(14):
        logits = torch.randn(len(batch), SPECIAL.n_vocab, generator=generator) * spread
        if step == 0:
            filtered = torch.stack(
                [state.filter_first(logits[i], i, params) for i, (params, _) in enumerate(batch)]
            )
        else:
            filtered = state.filter_next(logits, 0)
            assert torch.equal(filtered, state.filter_next(logits, 0, looks=False))
        for row, (params, _) in enumerate(batch):
            expected = reference(logits[row].tolist(), sampled[row], params)
            assert_same(filtered[row], expected, f"row {row} after {sampled[row]}")
        tokens = filtered.softmax(dim=-1).multinomial(1, generator=generator)[:, 0]
        for row, token in enumerate(tokens.tolist()):
            sampled[row].append(token)
        state.update(tokens, 0)


@pytest.mark.parametrize(
    ("sampled", "allowed", "forbidden"),
    [
        ([24], [0, 19, 20], [24, 25, 39]),  # one timestamp: text follows
        ([24, 5], [0, 20, 25], [24]),  # a segment is not empty
        ([24, 5, 30], [20, 30, 31], [0, 19, 29]),  # the end is repeated, or end-of-text
        ([24, 5, 30, 30], [0, 20], [24, 30, 39]),  # a pair: text follows
        ([24, 5, 30, 30, 6], [0, 31], [30, 29]),
    ],
)
def test_timestamps_come_in_rising_pairs(
    sampled: list[int], allowed: list[int], forbidden: list[int]
) -> None:
    state = RuleState(SPECIAL, 1)
    state.start(0, SequenceParams((21,), 0, 9))
    for token in sampled:
        state.update(torch.tensor([token]), 0)
    logits = torch.zeros(1, SPECIAL.n_vocab)
    logits[0, :24] = 20.0  # no more mass on timestamps than on text
    filtered = state.filter_next(logits, 0)[0]
    assert all(filtered[token] > NEVER for token in allowed)
    assert all(filtered[token] == NEVER for token in forbidden)


def test_moved_row_goes_on_where_it_was() -> None:
    state = RuleState(SPECIAL, 3)
    params = SequenceParams((21,), 0, 9, suppress_tokens=(7,))
    state.start(2, params)
    state.start(0, SequenceParams((21,), 0, 9, timestamps=False))
    for token in (24, 5, 30):
        state.update(torch.tensor([token]), 2)
    logits = torch.randn(1, SPECIAL.n_vocab, generator=torch.Generator().manual_seed(0))
    before = state.filter_next(logits, 2)
    state.move(2, 0)
    assert torch.equal(state.filter_next(logits, 0), before)
    assert before[0, 7] == NEVER


def test_restarted_row_forgets_its_last_sequence() -> None:
    state, fresh = RuleState(SPECIAL, 1), RuleState(SPECIAL, 1)
    state.start(0, SequenceParams((21,), 0, 9, suppress_tokens=(7, 8)))
    for token in (24, 5, 39):
        state.update(torch.tensor([token]), 0)
    params = SequenceParams((21,), 0, 9)
    state.start(0, params)
    fresh.start(0, params)
    for used in (state, fresh):
        used.update(torch.tensor([24]), 0)
    logits = torch.randn(1, SPECIAL.n_vocab, generator=torch.Generator().manual_seed(0))
    assert torch.equal(state.filter_next(logits, 0), fresh.filter_next(logits, 0))


def test_suppressed_token_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match=r"suppress_tokens \[40\]"):
        RuleState(SPECIAL, 1).start(0, SequenceParams((21,), 0, 9, suppress_tokens=(40,)))


def test_many_lists_of_suppressed_tokens_stay_apart() -> None:
    state = RuleState(SPECIAL, 20)
    for row in range(20):
        state.start(row, SequenceParams((21,), 0, 9, timestamps=False, suppress_tokens=(row,)))
    filtered = state.filter_next(torch.zeros(20, SPECIAL.n_vocab), 0)
    assert (filtered == NEVER).nonzero().tolist() == [[row, row] for row in range(20)]


@pytest.mark.parametrize("where", [5, 30])
@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_what_is_no_number_is_not_taken_for_a_rule(where: int, number: float) -> None:
    """It has to be seen by who draws: as text or as a timestamp, whatever the rules made of it."""
    state = RuleState(SPECIAL, 2)
    for row in range(2):
        state.start(row, SequenceParams((21,), 0, 9))
        state.update(torch.tensor([5]), row)
    logits = torch.randn(2, SPECIAL.n_vocab, generator=torch.Generator().manual_seed(0))
    right = state.filter_next(logits, 0)[1]
    logits[0, where] = number
    filtered = state.filter_next(logits, 0)
    assert not filtered[0].log_softmax(dim=-1).nan_to_num(0.0, 0.0, 0.0).any()
    assert torch.equal(filtered[1], right)


def test_logits_of_another_shape_than_the_rows_are_refused() -> None:
    state = RuleState(SPECIAL, 2)
    for logits in (torch.zeros(2, SPECIAL.n_vocab + 1), torch.zeros(3, SPECIAL.n_vocab)):
        with pytest.raises((ValueError, RuntimeError)):
            state.filter_next(logits, 0)
