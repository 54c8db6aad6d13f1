"""Tokens and the text they stand for. Knows nothing about torch, audio or requests."""

from service.text.detokenizer import StreamingDetokenizer
from service.text.languages import LANGUAGES, language_code
from service.text.segments import SegmentBuilder, TimedTokens, WindowEnd
from service.text.tokenizer import WhisperTokenizer, load_tokenizer

__all__ = [
    "LANGUAGES",
    "SegmentBuilder",
    "StreamingDetokenizer",
    "TimedTokens",
    "WhisperTokenizer",
    "WindowEnd",
    "language_code",
    "load_tokenizer",
]
