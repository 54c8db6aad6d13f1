"""The tensors of an `.apr` model, in one file or in shards. Knows no model's tensor names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from service.checkpoints.apr.file import AprFile, Checksum, read_apr
from service.checkpoints.tensors import TensorInfo
from service.errors import CheckpointError

_MAX_SHARDS = 1000
_PLACEHOLDER = re.compile(r"\{[^{}]*\}")
_NUMBERED = re.compile(r"(.*?)(\d+)-of-(\d+)(.*)", re.DOTALL)


class AprSource:
    """Named tensors of one or several `.apr` files.

    Attributes:
        path: the file that was asked for.
        infos: name -> shape and encoding of every tensor, pseudo-tensors included.
        files: the shards in their order, or the one file.
        metadata: of all files; where two differ, that of the file that was asked for.

    Raises:
        CheckpointError: if a shard is missing or does not belong to the others.
    """

    def __init__(self, path: Path) -> None:
        asked = read_apr(path)
        self.path = path
        self.files = _with_shards(asked)
        self.metadata: Mapping[str, Any] = {
            key: value for file in (*self.files, asked) for key, value in file.metadata.items()
        }
        self.infos: dict[str, TensorInfo] = {}
        self._homes: dict[str, AprFile] = {}
        for file in self.files:
            self._add(file)

    def _add(self, file: AprFile) -> None:
        for name, tensor in file.tensors.items():
            if name in self._homes:
                if name.startswith("__"):
                    continue  # every shard may carry the vocabulary
                raise CheckpointError(
                    f"{file.path}: {name} stands in {self._homes[name].path.name} too"
                )
            encoding = tensor.encoding
            self.infos[name] = TensorInfo(tensor.shape, encoding.dtype, encoding.name, tensor.size)
            self._homes[name] = file

    def read(self, name: str) -> Tensor:
        """Return one tensor; it may share memory with the file."""
        return self._homes[name].read(name)

    @property
    def version(self) -> int:
        """Of the layout, 1 or 2."""
        return self.files[0].version

    @property
    def vocabulary(self) -> memoryview | None:
        """The embedded vocabulary section."""
        return next((f.vocabulary for f in self.files if f.vocabulary is not None), None)

    @property
    def filters(self) -> Tensor | None:
        """The embedded mel filterbank, f32[n_mels 201]."""
        return next((f.filters for f in self.files if f.filters is not None), None)

    def checksums(self) -> dict[str, tuple[Checksum, ...]]:
        """Return file name -> its checksums, reading every byte."""
        return {file.path.name: file.checksums() for file in self.files}


def _with_shards(asked: AprFile) -> list[AprFile]:
    """Return all shards of the model that a file is one of."""
    if not asked.flags.get("sharded"):
        return [asked]
    sharding = asked.metadata.get("sharding")
    sharding = sharding if isinstance(sharding, dict) else {}
    count = sharding.get("shard_count")
    if not isinstance(count, int) or not 1 <= count <= _MAX_SHARDS:
        raise CheckpointError(
            f"{asked.path}: one of several shards, whose sharding.shard_count is {count!r}; "
            f"expected 1 to {_MAX_SHARDS}"
        )
    paths = _shard_paths(asked.path, count, sharding)
    files = [asked if path == asked.path else read_apr(path) for path in paths]
    places = [_place(file, count) for file in files]
    if len(set(places)) != count:
        raise CheckpointError(f"{asked.path}: its shards have the places {places}, two are equal")
    return [file for _, file in sorted(zip(places, files, strict=True), key=lambda pair: pair[0])]


def _shard_paths(path: Path, count: int, sharding: Mapping[str, Any]) -> list[Path]:
    """Return where the shards are: numbered like this one, or as the pattern says."""
    numbered = _NUMBERED.fullmatch(path.name)
    pattern = sharding.get("pattern")
    if numbered and int(numbered[3]) == count:
        before, width, after = numbered[1], len(numbered[2]), f"-of-{numbered[3]}{numbered[4]}"
    elif isinstance(pattern, str) and len(_PLACEHOLDER.findall(pattern)) == 2:
        if Path(pattern).name != pattern:
            raise CheckpointError(
                f"{path}: sharding.pattern is {pattern!r}, which names no file beside it"
            )
        before, between, end = _PLACEHOLDER.split(pattern)
        width, after = 5, f"{between}{count:05d}{end}"
    else:
        raise CheckpointError(
            f"{path}: one of {count} shards, but neither its name nor sharding.pattern "
            f"({pattern!r}) says what the others are called"
        )
    paths: list[Path] = []
    for first in (0, 1):
        paths = [path.parent / f"{before}{i:0{width}d}{after}" for i in range(first, first + count)]
        if all(other.is_file() for other in paths) and path in paths:
            return paths
    missing = [other.name for other in paths if not other.is_file()]
    raise CheckpointError(f"{path}: its shard {(missing or [paths[0].name])[0]} is missing")


def _place(file: AprFile, count: int) -> int:
    sharding = file.metadata.get("sharding")
    if not isinstance(sharding, dict) or sharding.get("shard_count") != count:
        raise CheckpointError(f"{file.path}: its sharding does not say that it is one of {count}")
    place = sharding.get("shard_index")
    if not isinstance(place, int):
        raise CheckpointError(f"{file.path}: sharding.shard_index is {place!r}, expected a number")
    return place
