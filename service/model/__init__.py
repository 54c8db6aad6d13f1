"""The Whisper architecture in PyTorch. Knows nothing about files, text, batching or HTTP."""

from service.model.config import WhisperConfig
from service.model.kv_cache import KVCache
from service.model.places import RowGroup
from service.model.watched import WatchedHeads
from service.model.whisper import WhisperModel

__all__ = ["KVCache", "RowGroup", "WatchedHeads", "WhisperConfig", "WhisperModel"]
