"""What the decoder is to say about a stretch of audio. Knows nothing about waveforms.

Whisper's conventions: `<|start|> words <|end|>` for each segment, then end of text; or, after
`<|notimestamps|>`, the words alone. Audio without digits is `<|nospeech|>` at the first position.
Whisper's rules suppress that token when they decode, and force a timestamp instead: what follows
it is then end of text, so that the transcript is empty without any special rule.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from training.vocabulary import (
    DIGIT_IDS,
    EOT,
    NO_SPEECH,
    NO_TIMESTAMPS,
    SOT,
    SOT_PREV,
    TIMESTAMP_BEGIN,
    WORD_IDS,
    timestamp,
)

IGNORE = -1
SEGMENT_PAUSE_S = 0.8
"""A longer pause ends a segment."""
FIRST_TOKENS_WEIGHT, NO_SPEECH_WEIGHT = 4.0, 2.2
"""Of the first two tokens where there are digits, and where there are none."""
DIGIT_SMOOTHING, TIMESTAMP_SMOOTHING = 0.08, 0.4


@dataclass(frozen=True, slots=True)
class Spoken:
    """Words with the time at which they were said, in seconds."""

    start_s: float
    end_s: float
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TokenTargets:
    """Decoder input and, for each position, what comes next (IGNORE: not scored)."""

    inputs: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)


def group(spoken: list[Spoken]) -> list[Spoken]:
    """Join what is not separated by SEGMENT_PAUSE_S."""
    groups: list[Spoken] = []
    for item in spoken:
        last = groups[-1] if groups else None
        if last and item.start_s - last.end_s <= SEGMENT_PAUSE_S:
            groups[-1] = Spoken(last.start_s, item.end_s, last.words + item.words)
        else:
            groups.append(item)
    return groups


def segment_tokens(spoken: list[Spoken]) -> list[int]:
    """Return `<|start|> words <|end|>` for each group, with times that never go back."""
    tokens: list[int] = []
    latest = TIMESTAMP_BEGIN
    for item in group(spoken):
        start = max(timestamp(item.start_s), latest)
        latest = max(timestamp(item.end_s), start + 1)
        tokens += [start, *(WORD_IDS[word] for word in item.words), latest]
    return tokens


def token_targets(
    spoken: list[Spoken], rng: random.Random, *, timestamps: bool, prompt_tokens: int = 0
) -> TokenTargets:
    """Return the targets of one item; no `spoken` means audio without digits."""
    prompt = previous_text(rng, prompt_tokens) if prompt_tokens else []
    if spoken:
        written = segment_tokens(spoken)
        first = written[0]
    else:
        written = [rng.choice((TIMESTAMP_BEGIN, timestamp(rng.random() ** 2 * 30)))]
        first = NO_SPEECH
    if timestamps:
        inputs = [SOT, *written]
        labels = [first, *written[1:], EOT]
    else:
        words = [token for token in written if token < TIMESTAMP_BEGIN]
        inputs = [SOT, NO_TIMESTAMPS, *words]
        labels = [first, *words, EOT]
    return TokenTargets(prompt + inputs, [IGNORE] * len(prompt) + labels)


def previous_text(rng: random.Random, length: int) -> list[int]:
    """Return `<|startofprev|>` and a transcript that has nothing to do with the audio."""
    tokens = [SOT_PREV]
    time_s, timed = 0.0, rng.random() < 0.6
    while len(tokens) < length:
        words = [rng.choice(DIGIT_IDS) for _ in range(rng.randint(1, 8))]
        if timed:
            end_s = time_s + len(words) * 0.5
            words = [timestamp(time_s % 30), *words, timestamp(end_s % 30)]
            time_s = end_s + rng.random() * 2
        tokens += words
    return tokens[:length]


def collate(targets: list[TokenTargets]) -> tuple[Tensor, Tensor]:
    """Pad to the longest: inputs i64[b s] and labels i64[b s]."""
    longest = max(len(item.inputs) for item in targets)
    inputs = [item.inputs + [EOT] * (longest - len(item.inputs)) for item in targets]
    labels = [item.labels + [IGNORE] * (longest - len(item.labels)) for item in targets]
    return torch.tensor(inputs), torch.tensor(labels)


def decoder_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy in which a digit shares a little with the others, a time with its neighbours.

    Shapes: logits f32[b s n_vocab], labels i64[b s] -> f32[].
    """
    scored = labels != IGNORE
    log_p = F.log_softmax(logits[scored], dim=-1)  # [n n_vocab]
    wanted = labels[scored]  # [n]
    exact = log_p.gather(1, wanted[:, None])[:, 0]
    digits = log_p[:, list(DIGIT_IDS)].mean(dim=-1)
    before = log_p.gather(1, (wanted - 1).clamp(min=TIMESTAMP_BEGIN)[:, None])[:, 0]
    last = logits.shape[-1] - 1
    after = log_p.gather(1, (wanted + 1).clamp(max=last)[:, None])[:, 0]
    is_digit = torch.isin(wanted, torch.tensor(DIGIT_IDS))
    digit = exact.lerp(digits, DIGIT_SMOOTHING)
    time = exact.lerp((before + after) / 2, TIMESTAMP_SMOOTHING)
    score = torch.where(is_digit, digit, torch.where(wanted >= TIMESTAMP_BEGIN, time, exact))
    # Without digits a timestamp is forced all the same: let it be the first.
    zero = log_p[:, TIMESTAMP_BEGIN]
    score = torch.where(wanted == NO_SPEECH, exact.lerp(zero, 0.05), score)
    # Whether there are digits at all is said by the first two tokens.
    is_silent = (labels == NO_SPEECH).any(dim=1, keepdim=True)  # [b 1]
    first = torch.where(is_silent, NO_SPEECH_WEIGHT, FIRST_TOKENS_WEIGHT)
    weight = torch.where(scored.cumsum(dim=1) <= 2, first, 1.0)[scored]
    return -(score * weight).sum() / weight.sum()
