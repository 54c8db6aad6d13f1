"""The `.apr` model format, both layouts. Knows nothing about which tensors a Whisper has.

What the bytes mean, and where its writers disagree: docs/apr.md.
"""

from service.checkpoints.apr.file import AprFile, Checksum, read_apr

__all__ = ["AprFile", "Checksum", "read_apr"]
