"""One `.apr` file, whichever layout: its tensors, metadata and embedded sections.

Knows nothing about models. The two layouts are read by `v1.py` and `v2.py`; which it is stands in
the first four bytes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from service.checkpoints.apr.encodings import Encoding, decode
from service.checkpoints.apr.image import Image
from service.errors import CheckpointError

V1_MAGIC = b"APR1"
V2_MAGICS = (b"APR\0", b"APR2")
VOCABULARY = "__vocab__"
FILTERS = "__mel_filters__"
_MAX_EXTENT = 1 << 40
"""A larger dimension is a lie, and would overflow arithmetic elsewhere."""


@dataclass(frozen=True, slots=True)
class AprTensor:
    """Where one tensor lies.

    Attributes:
        name: as the file has it.
        shape: outermost first.
        encoding: how its numbers are stored.
        offset, size: bytes in the image, from its beginning.
        scale: of INT8.
    """

    name: str
    shape: tuple[int, ...]
    encoding: Encoding
    offset: int
    size: int
    scale: float | None = None

    @property
    def n(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Checksum:
    """A CRC32 that the file carries.

    Attributes:
        name: what it covers.
        stored: what the file says.
        computed: what its bytes give.
    """

    name: str
    stored: int
    computed: int

    @property
    def holds(self) -> bool:
        """Whether the two agree."""
        return self.stored == self.computed


@dataclass(frozen=True, slots=True)
class AprFile:
    """What a file holds, with every offset and size checked.

    Attributes:
        image: its bytes.
        version: of the layout, 1 or 2.
        tensors: name -> place, in the order of the file, pseudo-tensors included.
        metadata: the JSON object of the second layout; the header's fields of the first.
        flags: name -> whether set, in the second layout.
        vocabulary: the embedded vocabulary section, None if there is none.
        filters: the mel filterbank, f32[n_mels 201], None if there is none.
        header_crc: the checksum of the header, in the second layout.
    """

    image: Image
    version: int
    tensors: Mapping[str, AprTensor]
    metadata: Mapping[str, Any]
    flags: Mapping[str, bool] = field(default_factory=dict)
    vocabulary: memoryview | None = None
    filters: Tensor | None = None
    header_crc: Checksum | None = None

    @property
    def path(self) -> Path:
        """The file."""
        return self.image.path

    def read(self, name: str) -> Tensor:
        """Return a tensor; it may share memory with the file.

        What was read before is given back to the system, so that a model never stands in memory
        beside its file.

        Raises:
            CheckpointError: if its encoding is none that Earshot reads.
        """
        self.image.forget()
        tensor = self.tensors[name]
        if not tensor.encoding.readable:
            raise CheckpointError(
                f"{self.path}: {name} is stored as {tensor.encoding.name}, which Earshot cannot "
                "read; expected F32, F16, BF16, F64, I8, AprQ4 or AprQ8"
            )
        expected = tensor.encoding.size(tensor.n)
        start = tensor.offset + tensor.size - expected  # a filterbank may have a prefix
        data = self.image.view(start, expected, name)
        return decode(data, tensor.encoding, tensor.n, tensor.scale).view(tensor.shape)

    def checksums(self) -> tuple[Checksum, ...]:
        """Compute every checksum of the file, which reads all of it."""
        end = len(self.image) - 4
        (stored,) = self.image.unpack("I", end, "the checksum at the end")
        whole = Checksum("file", stored, self.image.crc32(0, end))
        return (self.header_crc, whole) if self.header_crc else (whole,)


def read_apr(path: Path) -> AprFile:
    """Read what a file says of itself; tensors stay in it until they are asked for.

    Raises:
        CheckpointError: naming the field, what it says, and what it may be.
    """
    from service.checkpoints.apr.v1 import read_v1  # noqa: PLC0415 - they need the types above
    from service.checkpoints.apr.v2 import read_v2  # noqa: PLC0415

    image = Image.of(path)
    magic = bytes(image.view(0, 4, "the magic"))
    if magic == V1_MAGIC:
        return read_v1(image)
    if magic in V2_MAGICS:
        return read_v2(image)
    raise CheckpointError(f"{path}: not an .apr file, it starts with {magic!r}")


def check_shape(image: Image, name: str, shape: tuple[int, ...]) -> None:
    """Refuse extents that no tensor has.

    Raises:
        CheckpointError: naming the tensor.
    """
    if any(extent > _MAX_EXTENT for extent in shape) or math.prod(shape) > _MAX_EXTENT:
        raise CheckpointError(
            f"{image.path}: the shape of {name} is {list(shape)}, at most {_MAX_EXTENT} numbers "
            "are possible"
        )


def check_places(image: Image, tensors: list[AprTensor], start: int, end: int) -> None:
    """Refuse tensors that leave the data section, overlap, or share a name.

    Raises:
        CheckpointError: naming the tensors.
    """
    names: set[str] = set()
    for tensor in tensors:
        if tensor.name in names:
            raise CheckpointError(f"{image.path}: two tensors are called {tensor.name}")
        names.add(tensor.name)
        if tensor.offset < start or tensor.offset + tensor.size > end:
            raise CheckpointError(
                f"{image.path}: truncated or damaged: {tensor.name} needs the bytes "
                f"{tensor.offset} to {tensor.offset + tensor.size}, its tensors lie within "
                f"{start} to {end}"
            )
    placed = sorted((t for t in tensors if t.size), key=lambda tensor: tensor.offset)
    for before, after in itertools.pairwise(placed):
        if before.offset + before.size > after.offset:
            raise CheckpointError(
                f"{image.path}: {before.name} and {after.name} overlap at byte {after.offset}"
            )
