"""Which language a window is spoken in. Knows nothing about audio or HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.engine.engine import WindowLease
    from service.text.tokenizer import WhisperTokenizer


async def detect(
    lease: WindowLease, tokenizer: WhisperTokenizer, candidates: Sequence[str] = ()
) -> list[tuple[str, float]]:
    """Return the languages of a window and their probabilities, the likeliest first.

    Args:
        lease: on the window.
        tokenizer: of the model, which is multilingual.
        candidates: codes to choose from, whose probabilities then sum to 1; () for all.

    Raises:
        ServiceError: as the engine does.
    """
    by_token = await lease.detect()
    codes = candidates or tuple(tokenizer.languages)
    found = {code: by_token[tokenizer.languages[code]] for code in codes}
    total = sum(found.values())
    shares = {code: share / total if total else 1 / len(found) for code, share in found.items()}
    return sorted(shares.items(), key=lambda item: item[1], reverse=True)
