"""What one decoding of one window needs to know. No torch: the engine core imports it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """The ids that logit rules look at, as the checkpoint's own tokenizer has them.

    Attributes:
        eot: <|endoftext|>.
        sot: <|startoftranscript|>.
        no_speech: <|nospeech|> (older vocabularies: <|nocaptions|>), None if there is none.
        no_timestamps: <|notimestamps|>.
        timestamp_begin: <|0.00|>; every id from here on is a timestamp, 0.02 s apart.
        blank: the ids that may not come first: those of " ".
        n_vocab: width of the logits.
    """

    eot: int
    sot: int
    no_speech: int | None
    no_timestamps: int
    timestamp_begin: int
    blank: tuple[int, ...]
    n_vocab: int


@dataclass(frozen=True, slots=True)
class NoiseKey:
    """Names a stream of sampling noise: the same key, the same noise, whatever runs beside it."""

    seed: int = 0
    window: int = 0
    attempt: int = 0
    candidate: int = 0


@dataclass(frozen=True, slots=True)
class SequenceParams:
    """How to decode one window once.

    Attributes:
        prompt: every token before the first sampled one.
        sot_index: where in `prompt` <|startoftranscript|> stands; the probability of
            <|nospeech|> is read there.
        max_tokens: tokens to sample at most (the reference: n_text_ctx // 2).
        temperature: 0 for greedy, otherwise sampling.
        noise: the key of the sampling noise.
        timestamps: whether timestamp rules apply.
        suppress_blank: whether `SpecialTokens.blank` and end-of-text may not come first.
        suppress_tokens: ids that are never sampled.
        max_initial_timestamp_index: the latest first timestamp in steps of 0.02 s, None for none.
    """

    prompt: tuple[int, ...]
    sot_index: int
    max_tokens: int
    temperature: float = 0.0
    noise: NoiseKey = NoiseKey()
    timestamps: bool = True
    suppress_blank: bool = True
    suppress_tokens: tuple[int, ...] = ()
    max_initial_timestamp_index: int | None = None
