"""What every test may use."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import settings

from service.text.tokenizer import WhisperTokenizer
from service.text.vocabulary import byte_alphabet

REPOSITORY = Path(__file__).parents[1]

# Hypothesis would fail an example that takes 200 ms, which any does on a busy machine.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def samples(repository: Path) -> Path:
    """The recordings that come with the repository."""
    return repository / "samples"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Fixtures too large for the repository, found through `EARSHOT_SHARED` only."""
    folder = os.environ.get("EARSHOT_SHARED")
    if not folder:
        pytest.skip("EARSHOT_SHARED is not set")
    return Path(folder)


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., WhisperTokenizer]:
    """Return a maker of tokenizers whose text tokens are the 256 bytes."""

    def make(languages: Sequence[str] = ("en", "de", "ja")) -> WhisperTokenizer:
        vocab = byte_alphabet()
        texts = ["<|endoftext|>", "<|startoftranscript|>"]
        texts += [f"<|{code}|>" for code in languages]
        texts += ["<|translate|>", "<|transcribe|>"] if languages else []
        texts += ["<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
        texts += [f"<|{place * 0.02:.2f}|>" for place in range(1501)]
        shape = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        added = [
            {"id": len(vocab) + place, "content": text, **shape, "special": True}
            for place, text in enumerate(texts)
        ]
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
        return WhisperTokenizer(
            {
                "version": "1.0",
                "added_tokens": added,
                "pre_tokenizer": {**byte_level, "use_regex": True},
                "decoder": {**byte_level, "use_regex": True},
                "model": {"type": "BPE", "vocab": vocab, "merges": []},
            }
        )

    return make
