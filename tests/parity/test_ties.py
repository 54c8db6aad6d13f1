"""Of what was compared before, by the other tests of this folder: ties are rare."""

from __future__ import annotations

import pytest

from tests.parity.compare import assert_ties_are_rare
from tests.parity.tally import Tally


def test_no_more_than_one_token_in_a_thousand_is_a_tie(tallies: dict[str, Tally]) -> None:
    for tally in tallies.values():
        assert_ties_are_rare(tally)


def test_two_ties_in_fewer_than_two_thousand_tokens_are_too_many() -> None:
    assert_ties_are_rare(Tally(tokens=2000, ties=2))
    with pytest.raises(AssertionError, match="2 ties in 1999 tokens"):
        assert_ties_are_rare(Tally(tokens=1999, ties=2))
