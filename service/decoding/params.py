"""What one decoding of one window needs to know. No torch: the engine core imports it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from service.text.tokenizer import WhisperTokenizer


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
        languages: those of the languages that the model can tell apart.
    """

    eot: int
    sot: int
    no_speech: int | None
    no_timestamps: int
    timestamp_begin: int
    blank: tuple[int, ...]
    n_vocab: int
    languages: tuple[int, ...] = ()

    @classmethod
    def of(cls, tokenizer: WhisperTokenizer, n_vocab: int) -> Self:
        """Return those of a tokenizer, for a model whose logits are `n_vocab` wide."""
        return cls(
            eot=tokenizer.eot,
            sot=tokenizer.sot,
            no_speech=tokenizer.no_speech,
            no_timestamps=tokenizer.no_timestamps,
            timestamp_begin=tokenizer.timestamp_begin,
            blank=tuple(tokenizer.blank_tokens),
            n_vocab=n_vocab,
            languages=tuple(tokenizer.languages.values()),
        )


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
        noise: the key of the sampling noise; each of `best_of` candidates adds its number to it.
        timestamps: whether timestamp rules apply.
        suppress_blank: whether `SpecialTokens.blank` and end-of-text may not come first.
        suppress_tokens: ids that are never sampled.
        max_initial_timestamp_index: the latest first timestamp in steps of 0.02 s, None for none.
        beam_size: hypotheses of a beam search; at temperature 0 only.
        best_of: candidates that are sampled, of which the best is kept; at a temperature only.
        patience: a beam search goes on until this times `beam_size` hypotheses have ended (1).
        length_penalty: exponent of the length by which log-probabilities are divided to rank
            hypotheses (Wu et al. 2016, equation 14, with alpha); None divides by the length itself.

    Raises:
        ValueError: if these contradict one another.
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
    beam_size: int | None = None
    best_of: int | None = None
    patience: float | None = None
    length_penalty: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature {self.temperature} must be 0 or more")
        if self.beam_size is not None:
            self._check_beam(self.beam_size)
        elif self.patience is not None:
            raise ValueError(f"patience {self.patience} needs a beam_size")
        if self.best_of is not None and self.best_of < 1:
            raise ValueError(f"best_of {self.best_of} must be positive")
        if (self.best_of or 1) > 1 and not self.temperature:
            raise ValueError(f"best_of {self.best_of} needs a temperature above 0")

    def _check_beam(self, beam_size: int) -> None:
        if beam_size < 1:
            raise ValueError(f"beam_size {beam_size} must be positive")
        if self.temperature:
            raise ValueError(f"beam_size {beam_size} needs temperature 0, not {self.temperature}")
        if self.patience is not None and not round(beam_size * self.patience) >= 1:
            raise ValueError(f"patience {self.patience} leaves no hypothesis of {beam_size}")

    @property
    def n_rows(self) -> int:
        """Decoder rows that this takes: one a hypothesis."""
        return self.beam_size or self.best_of or 1

    @property
    def is_beam(self) -> bool:
        """Whether its rows are the beams of a search; a single beam is a greedy choice."""
        return (self.beam_size or 1) > 1


@dataclass(frozen=True, slots=True)
class DetectParams:
    """How to tell a window's language: one decoder step after <|startoftranscript|>."""


@dataclass(frozen=True, slots=True)
class AlignParams:
    """How to align text with a window: one teacher-forced pass.

    Attributes:
        prompt: <|startoftranscript|>, language, task and <|notimestamps|>; without previous text.
        tokens: the text's tokens, end-of-text and timestamps left out; one at least.
        n_frames: mel frames of 10 ms of the window that hold audio.
    """

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    n_frames: int
