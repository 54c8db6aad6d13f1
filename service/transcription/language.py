"""Which language a window is spoken in. Knows nothing about audio or HTTP."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from service.decoding.params import SequenceParams

if TYPE_CHECKING:
    from service.engine.engine import WindowLease
    from service.text.tokenizer import WhisperTokenizer


async def detect(
    lease: WindowLease,
    tokenizer: WhisperTokenizer,
    n_vocab: int,
    candidates: Sequence[str] = (),
) -> tuple[str, float]:
    """Return the likeliest language of a window, and its probability among the candidates.

    Args:
        lease: on the window.
        tokenizer: of the model, which is multilingual.
        n_vocab: width of the model's logits.
        candidates: codes to choose from; () for all.

    Raises:
        ServiceError: as the engine does.
    """
    possible = {tokenizer.languages[code]: code for code in candidates or tokenizer.languages}
    steps = [step async for step in lease.decode(_one_of(possible, tokenizer.sot, n_vocab))]
    if steps[0].error is not None:
        raise steps[0].error
    return possible[steps[0].token_id], math.exp(steps[0].logprob)


def _one_of(possible: dict[int, str], sot: int, n_vocab: int) -> SequenceParams:
    """Return how to sample the language token: one step in which nothing else is possible."""
    return SequenceParams(
        prompt=(sot,),
        sot_index=0,
        max_tokens=1,
        timestamps=False,
        suppress_blank=False,
        suppress_tokens=tuple(i for i in range(n_vocab) if i not in possible),
    )
