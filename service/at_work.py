"""What there is to know of a model that is loaded, for whoever serves with it.

Plain values, which come from the engine's process. Knows nothing about torch or HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from service.text.tokenizer import WhisperTokenizer
from service.transcription.params import ModelFacts


@dataclass(frozen=True, slots=True)
class ModelFlow:
    """The data flow of the model that is served, from its file.

    Attributes:
        report: nested plain values.
        svg, text: the same, drawn.
    """

    report: Mapping[str, Any]
    svg: str
    text: str


@dataclass(frozen=True, slots=True)
class ModelAtWork:
    """What there is to know of a model that is loaded.

    Attributes:
        facts, tokenizer, n_mels: for transcriptions.
        flow: of its file.
        kv_cache_bytes: of the key/value pools.
        device, dtype, numerics: where it runs and in what.
        n_threads: that torch computes with on a CPU.
        torch_version: of the torch that runs it.
    """

    facts: ModelFacts
    tokenizer: WhisperTokenizer
    flow: ModelFlow
    n_mels: int
    kv_cache_bytes: int
    device: str
    dtype: str
    numerics: str
    n_threads: int
    torch_version: str
