"""Greedy decoding under Whisper's rules, for following a training run. Knows nothing about files.

The service decodes with its own, complete implementation; this one is small and batched over
windows of one length.
"""

from __future__ import annotations

import torch
from torch import Tensor

from service.model import WhisperModel
from training.vocabulary import (
    EOT,
    NO_SPEECH,
    NO_TIMESTAMPS,
    SOT,
    TIMESTAMP_BEGIN,
    WORDS,
)

MAX_TOKENS = 120
_LAST_TEXT = EOT


@torch.inference_mode()
def transcribe(model: WhisperModel, mel: Tensor, *, timestamps: bool) -> list[list[int]]:
    """Return the tokens after the prompt, without end of text, for mel f32[b n_mels t]."""
    encoder_output = model.encoder(mel)
    prompt = [SOT] if timestamps else [SOT, NO_TIMESTAMPS]
    tokens = torch.tensor([prompt] * len(mel))
    for _ in range(MAX_TOKENS):
        logits = model.decoder(tokens, encoder_output)[:, -1]
        apply_rules(logits, tokens[:, len(prompt) :], timestamps=timestamps)
        ended = (tokens[:, len(prompt) :] == EOT).any(dim=1)
        following = logits.argmax(dim=-1).masked_fill(ended, EOT)
        tokens = torch.cat([tokens, following[:, None]], dim=1)
        if bool((following == EOT).all()):
            break
    rows: list[list[int]] = tokens[:, len(prompt) :].tolist()
    return [row[: row.index(EOT)] if EOT in row else row for row in rows]


def apply_rules(logits: Tensor, sampled: Tensor, *, timestamps: bool) -> None:
    """Suppress specials in place, and with `timestamps` keep them in pairs that never go back.

    Shapes: logits f32[b n_vocab], sampled i64[b n]. After openai/whisper `ApplyTimestampRules`.
    """
    logits[:, SOT:TIMESTAMP_BEGIN] = -torch.inf
    if not timestamps:
        logits[:, TIMESTAMP_BEGIN:] = -torch.inf
        return
    for row, tokens in enumerate(sampled.tolist()):
        scores = logits[row]
        if not tokens:
            scores[:TIMESTAMP_BEGIN] = -torch.inf
            continue
        times = [token for token in tokens if token >= TIMESTAMP_BEGIN]
        last_is_time = tokens[-1] >= TIMESTAMP_BEGIN
        paired = len(tokens) < 2 or tokens[-2] >= TIMESTAMP_BEGIN
        if last_is_time and paired:
            scores[TIMESTAMP_BEGIN:] = -torch.inf
        elif last_is_time:
            scores[:_LAST_TEXT] = -torch.inf
        if times:
            earliest = times[-1] if last_is_time and not paired else times[-1] + 1
            scores[TIMESTAMP_BEGIN:earliest] = -torch.inf
        log_p = scores.log_softmax(dim=-1)
        if log_p[TIMESTAMP_BEGIN:].logsumexp(dim=-1) > log_p[:TIMESTAMP_BEGIN].max():
            scores[:TIMESTAMP_BEGIN] = -torch.inf


def words(tokens: list[int]) -> list[str]:
    """Return the digits among tokens; anything else that is text counts as a wrong word."""
    return [WORDS.get(token, "?") for token in tokens if token < EOT]


__all__ = ["NO_SPEECH", "apply_rules", "transcribe", "words"]
