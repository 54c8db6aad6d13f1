"""Text out of tokens as they come. Knows nothing about where the tokens come from."""

from __future__ import annotations

import codecs

from service.text.tokenizer import WhisperTokenizer


class StreamingDetokenizer:
    """Decodes one stream of tokens, and never gives out half a character.

    The texts of all pushes and of the flush, joined, are `WhisperTokenizer.decode` of the whole.
    Each push is O(1): bytes of an unfinished character wait in the decoder.
    """

    def __init__(self, tokenizer: WhisperTokenizer) -> None:
        self._token_bytes = tokenizer.token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """Return the characters that this token completes, perhaps none."""
        return self._decoder.decode(self._token_bytes(token_id))

    def flush(self) -> str:
        """Return what is left at the end (U+FFFD for an unfinished character) and start anew."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return rest
