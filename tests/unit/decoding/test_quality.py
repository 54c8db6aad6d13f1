from __future__ import annotations

import pytest

from service.decoding.quality import compression_ratio


def test_what_repeats_itself_is_compressed_more() -> None:
    assert compression_ratio("la " * 100) > 2.4
    assert compression_ratio("the quick brown fox jumps over the lazy dog") < 1.2


def test_no_text_has_a_ratio_of_nothing() -> None:
    assert compression_ratio("") == 0


def test_the_ratio_is_that_of_the_bytes() -> None:
    assert compression_ratio("a" * 100) == pytest.approx(100 / 12)
    assert compression_ratio("é" * 100) == pytest.approx(200 / 13, rel=0.1)
