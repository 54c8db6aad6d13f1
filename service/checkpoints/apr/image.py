"""The bytes of a file, mapped, of which none is used before its place is checked.

Knows nothing about what the bytes mean; every reader of `.apr` goes through here.
"""

from __future__ import annotations

import mmap
import struct
import zlib
from pathlib import Path
from typing import Any

from service.errors import CheckpointError

_CHUNK_BYTES = 1 << 22
"""Of the file, as much as is checksummed at once."""


class Image:
    """A file's content: mapped, or unpacked into memory where the file is compressed.

    Args:
        path: what to name in error messages.
        data: its bytes; writable, so that tensors can share them, but nobody writes.
        mapped: what they are mapped by, None where they are in memory.
    """

    def __init__(self, path: Path, data: memoryview, mapped: mmap.mmap | None = None) -> None:
        self.path = path
        self._data = data
        self._mapped = mapped

    @classmethod
    def of(cls, path: Path) -> Image:
        """Map a file.

        Raises:
            CheckpointError: if it is empty or cannot be read.
        """
        try:
            with path.open("rb") as file:  # a private copy on write: never touches the file
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path}: not readable: {error}") from error
        return cls(path, memoryview(mapped), mapped)

    def __len__(self) -> int:
        return len(self._data)

    def view(self, offset: int, size: int, what: str) -> memoryview:
        """Return bytes in place.

        Raises:
            CheckpointError: if the file does not reach that far; `what` names the field.
        """
        if offset < 0 or size < 0 or offset + size > len(self):
            raise CheckpointError(
                f"{self.path}: truncated or damaged: {what} needs {size} bytes from byte {offset}, "
                f"the file has {len(self)}"
            )
        return self._data[offset : offset + size]

    def unpack(self, form: str, offset: int, what: str) -> tuple[Any, ...]:
        """Return little-endian fields, in the letters of `struct`."""
        return struct.unpack("<" + form, self.view(offset, struct.calcsize("<" + form), what))

    def text(self, offset: int, size: int, what: str) -> str:
        """Return UTF-8."""
        try:
            return str(self.view(offset, size, what), "utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError(
                f"{self.path}: {what} must be UTF-8, found {bytes(self.view(offset, size, what))!r}"
            ) from error

    def crc32(self, start: int, end: int) -> int:
        """Return the IEEE CRC32 of a stretch, reading it piece by piece."""
        crc = 0
        for at in range(start, end, _CHUNK_BYTES):
            crc = zlib.crc32(self._data[at : min(at + _CHUNK_BYTES, end)], crc)
            self.forget()
        return crc

    def forget(self) -> None:
        """Give back the memory of what was looked at; it is read from the file again if needed."""
        if self._mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._mapped.madvise(mmap.MADV_DONTNEED)
