"""The built-in model's tokens: bytes, the ten digits, Whisper's special tokens and timestamps.

English only: no language tokens, as in Whisper's `.en` models.
"""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from tokenizers.pre_tokenizers import ByteLevel

from training.corpora import DIGITS

_NAMES = (
    *("endoftext", "startoftranscript", "translate", "transcribe"),
    *("startoflm", "startofprev", "nospeech", "notimestamps"),
)
SPECIALS = tuple(f"<|{name}|>" for name in _NAMES)
TIMESTAMPS = tuple(f"<|{i * 0.02:.2f}|>" for i in range(1501))
SECONDS_PER_TIMESTAMP = 0.02


def build_tokenizer() -> Tokenizer:
    """Return a byte-level BPE in which " zero" ... " nine" are one token each."""
    vocab = {symbol: i for i, symbol in enumerate(sorted(ByteLevel.alphabet()))}
    merges: list[tuple[str, str]] = []
    for word in DIGITS:
        left = "Ġ"
        for letter in word:
            if (left, letter) not in merges:
                merges.append((left, letter))
                vocab[left + letter] = len(vocab)
            left += letter
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in SPECIALS])
    tokenizer.add_tokens([AddedToken(text, special=False) for text in TIMESTAMPS])
    return tokenizer


_TOKENIZER = build_tokenizer()


def token_id(text: str) -> int:
    """Return the id of a token by its text ("Ġzero", "<|nospeech|>").

    Raises:
        KeyError: if there is no such token.
    """
    found: int | None = _TOKENIZER.token_to_id(text)
    if found is None:
        raise KeyError(text)
    return found


N_VOCAB: int = _TOKENIZER.get_vocab_size()
EOT, SOT, TRANSLATE, TRANSCRIBE, SOLM, SOT_PREV, NO_SPEECH, NO_TIMESTAMPS = (
    token_id(text) for text in SPECIALS
)
TIMESTAMP_BEGIN = token_id(TIMESTAMPS[0])
DIGIT_IDS = tuple(token_id("Ġ" + word) for word in DIGITS)
WORD_IDS = dict(zip(DIGITS, DIGIT_IDS, strict=True))
WORDS = {i: word for word, i in WORD_IDS.items()}
BLANK_TEXT = token_id("Ġ")


def timestamp(seconds: float) -> int:
    """Return the id of the nearest timestamp token."""
    return TIMESTAMP_BEGIN + min(max(round(seconds / SECONDS_PER_TIMESTAMP), 0), 1500)
