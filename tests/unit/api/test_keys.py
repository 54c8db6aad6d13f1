from __future__ import annotations

import pytest

from service.api.keys import ApiKeys


def test_without_keys_everybody_is_admitted() -> None:
    keys = ApiKeys()
    assert keys.admits(None)
    assert keys.admits("whatever")


def test_each_of_several_keys_is_taken_and_nothing_else() -> None:
    keys = ApiKeys(["first-key", "second-key"])
    assert len(keys) == 2
    assert keys.admits("first-key")
    assert keys.admits("second-key")
    for other in (None, "", "first-ke", "first-key ", "FIRST-KEY", "schlüssel", "\udce4"):
        assert not keys.admits(other)


def test_an_empty_key_is_no_key() -> None:
    assert not ApiKeys([""]).admits(None)


@pytest.mark.parametrize("show", [repr, str, lambda keys: str(vars(keys))])
def test_keys_cannot_be_read_from_it(show: object) -> None:
    assert callable(show)
    assert "first-key" not in show(ApiKeys(["first-key"]))
