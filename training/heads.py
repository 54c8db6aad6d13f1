"""Finds the cross-attention heads that look where the word is that they are about to write.

`alignment_heads` of a Whisper model are what word times are computed from. They are measured on
joined digits, whose times are known. Knows nothing about files.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from service.model import WhisperModel
from service.model.attention import CrossAttention, split_heads
from training.compose import Composer
from training.material import Material
from training.spectrogram import Spectrogram, window_frames
from training.targets import Spoken
from training.vocabulary import NO_TIMESTAMPS, SOT, WORD_IDS

UTTERANCES, SECONDS = 60, 5
POSITIONS_PER_S = 50
TOLERANCE_S = 0.1
GOOD_SHARE = 0.9
"""Heads at least this good, relative to the best one, are taken."""


@torch.inference_mode()
def attention(model: WhisperModel, mel: Tensor, tokens: Tensor) -> Tensor:
    """Return all cross-attention weights, f32[layer head s t/2], for a batch of one."""
    seen: list[Tensor] = []

    def look(module: CrossAttention, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        query = split_heads(module.query(inputs[0]), module.n_head)
        key, _ = module.project_key_value(inputs[1])
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        seen.append(scores.softmax(dim=-1)[0])

    modules = [module for module in model.modules() if isinstance(module, CrossAttention)]
    hooks = [module.register_forward_hook(look) for module in modules]
    model(mel, tokens)
    for hook in hooks:
        hook.remove()
    return torch.stack(seen)


def hits(weights: Tensor, spoken: list[Spoken]) -> Tensor:
    """Return how many words each head is right about, f32[layer head].

    Shapes: weights f32[layer head s t/2], whose row 1 + i is about to write word i.
    """
    right = torch.zeros(weights.shape[:2])
    for row, item in enumerate(spoken, start=1):
        first = max(round((item.start_s - TOLERANCE_S) * POSITIONS_PER_S), 0)
        last = round((item.end_s + TOLERANCE_S) * POSITIONS_PER_S)
        place = weights[:, :, row].argmax(dim=-1)
        right += (place >= first) & (place <= last)
    return right


def alignment_heads(model: WhisperModel, material: Material) -> tuple[tuple[int, int], ...]:
    """Return (layer, head) of the heads that are nearly as often right as the best one."""
    composer = Composer(material, np.random.default_rng(11))
    spectrogram = Spectrogram()
    right, n_words = torch.zeros(1), 0
    for _ in range(UTTERANCES):
        utterance = composer.digits(SECONDS * 16_000 // 2, SECONDS * 16_000)
        if not utterance.spoken or any(len(item.words) > 1 for item in utterance.spoken):
            continue
        mel = spectrogram([utterance.samples], window_frames(utterance.samples), None)
        words = [WORD_IDS[item.words[0]] for item in utterance.spoken]
        weights = attention(model, mel, torch.tensor([[SOT, NO_TIMESTAMPS, *words]]))
        right = right + hits(weights, utterance.spoken)
        n_words += len(words)
    share = right / max(n_words, 1)
    found = (share >= GOOD_SHARE * share.max()).nonzero().tolist()
    print(f"alignment heads {found}, right about {share.max():.0%} of {n_words} words")
    return tuple((int(layer), int(head)) for layer, head in found)
