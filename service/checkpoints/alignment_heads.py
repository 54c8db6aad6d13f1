"""Which heads of the cross-attention follow the audio, for models whose files do not say.

OpenAI published them with its code for each size that it released (openai/whisper `__init__.py`,
`_ALIGNMENT_HEADS`). Sizes are told by their dimensions: large-v1 has those of large-v2, and its own
heads are not known here. A model of any other dimensions gets all heads of the upper half of its
decoder, as in openai/whisper.
"""

from __future__ import annotations

from service.checkpoints.openai_pt import released_size
from service.model.config import WhisperConfig

Heads = tuple[tuple[int, int], ...]
"""(layer, head) pairs."""

PUBLISHED: dict[str, dict[int, tuple[int, ...]]] = {
    "tiny.en": {1: (0,), 2: (0, 5), 3: (0, 1, 2, 3, 4)},
    "tiny": {2: (2,), 3: (0, 2, 3, 4, 5)},
    "base.en": {3: (3,), 4: (7,), 5: (1, 5, 7)},
    "base": {3: (1,), 4: (2, 3, 7), 5: (1, 2, 4, 6)},
    "small.en": {
        6: (6,), 7: (0, 3, 8), 8: (2, 5, 7), 9: (0, 4, 8, 10), 10: (0, 1, 2, 3, 6, 11), 11: (2, 4),
    },
    "small": {5: (3, 9), 8: (0, 4, 7, 8), 9: (0, 7, 9), 10: (5,)},
    "medium.en": {
        11: (4,), 14: (1, 12, 14), 15: (4,), 16: (0, 4, 9), 17: (12, 14), 18: (7, 10, 15),
        20: (0, 3, 9, 14), 21: (12,),
    },
    "medium": {13: (15,), 15: (4, 15), 16: (1,), 20: (0,), 23: (4,)},
    "large-v2": {
        10: (12,), 13: (17,), 16: (11, 12, 13), 17: (15, 16), 18: (4, 11, 19), 19: (11,),
        21: (2, 3), 22: (3, 9, 12), 23: (5, 7, 13), 25: (5,), 26: (1, 12), 27: (15,),
    },
    "large-v3": {
        7: (0,), 10: (17,), 12: (18,), 13: (12,), 16: (1,), 17: (14,), 19: (11,), 21: (4,),
        24: (1,), 25: (6,),
    },
    "large-v3-turbo": {2: (4, 11), 3: (3, 6, 11, 14)},
}  # fmt: skip
"""Released size -> layer -> heads."""


def alignment_heads(config: WhisperConfig) -> Heads:
    """Return the published heads of a released size, otherwise those of the upper half."""
    size = released_size(config)
    if size in PUBLISHED:
        return tuple((layer, head) for layer, own in PUBLISHED[size].items() for head in own)
    layers = range(config.n_text_layer // 2, config.n_text_layer)
    return tuple((layer, head) for layer in layers for head in range(config.n_text_head))
