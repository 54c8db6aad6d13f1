"""The tokenizers that transcriptions are tested with."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from service.text.tokenizer import WhisperTokenizer


@pytest.fixture(scope="module")
def english(make_tokenizer: Callable[..., WhisperTokenizer]) -> WhisperTokenizer:
    return make_tokenizer(languages=())


@pytest.fixture(scope="module")
def multilingual(make_tokenizer: Callable[..., WhisperTokenizer]) -> WhisperTokenizer:
    return make_tokenizer()
