"""Tensors in files, read one at a time. Knows nothing about which tensors a model has."""

from __future__ import annotations

import contextlib
import json
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from service.errors import CheckpointError

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


_UNPICKLING = (
    *(RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError, AttributeError),
    *(AssertionError, ArithmeticError, MemoryError),
)
"""What `torch.load` raises over damaged files; its unpickler trusts their structure."""
_SHORT = {dtype: name for name, dtype in _DTYPES.items()}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What a file says about a tensor, without reading it.

    Attributes:
        shape: outermost first.
        dtype: of the tensor when it is read.
        stored_as: how its numbers are stored, where that is not simply `dtype`.
        stored_bytes: its bytes in the file, where they do not follow from `dtype`.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    stored_as: str | None = None
    stored_bytes: int | None = None

    @property
    def encoding(self) -> str:
        """How its numbers are stored: F32, F16, BF16, F64, AprQ8, ..."""
        return self.stored_as or _SHORT[self.dtype]

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        if self.stored_bytes is not None:
            return self.stored_bytes
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class TensorSource(Protocol):
    """Named tensors that are read when asked for."""

    @property
    def path(self) -> Path:
        """What to name in error messages."""
        ...

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        """Name -> shape and dtype of every tensor."""
        ...

    def read(self, name: str) -> Tensor:
        """Return one tensor; it may share memory with the file."""
        ...


class RenamedSource:
    """A source under other names.

    Args:
        source: the file's tensors.
        names: new name -> the file's; tensors that are not in it are left out.
    """

    def __init__(self, source: TensorSource, names: Mapping[str, str]) -> None:
        self._source = source
        self._names = names
        self.path = source.path
        self.infos: Mapping[str, TensorInfo] = {n: source.infos[f] for n, f in names.items()}

    def read(self, name: str) -> Tensor:
        """Return one tensor; it may share memory with the file."""
        return self._source.read(self._names[name])


class SafetensorsSource:
    """One or several safetensors files.

    A file is mapped for each tensor that is read, and not for longer than that is needed, so that a
    model never stands in memory beside its file.
    """

    def __init__(self, path: Path, files: list[Path]) -> None:
        self.path = path
        self.infos: dict[str, TensorInfo] = {}
        self._homes: dict[str, Path] = {}
        for file in files:
            with _opened(file) as handle:
                for name in handle.keys():  # noqa: SIM118  (a handle, not a mapping)
                    piece = handle.get_slice(name)
                    self.infos[name] = _info(file, name, piece.get_shape(), piece.get_dtype())
                    self._homes[name] = file

    def read(self, name: str) -> Tensor:
        """Return one tensor.

        Raises:
            CheckpointError: if its file has gone meanwhile.
        """
        with _opened(self._homes[name]) as handle:
            tensor: Tensor = handle.get_tensor(name)
        return tensor


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with safe_open(file, framework="pt") as handle:
            yield handle
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file}: not readable as safetensors: {error}") from error


class TorchSource:
    """Tensors that `torch.load` has mapped or read already."""

    def __init__(self, path: Path, tensors: Mapping[str, object]) -> None:
        self.path = path
        self._tensors: dict[str, Tensor] = {}
        self.infos: dict[str, TensorInfo] = {}
        for name, tensor in tensors.items():
            if not isinstance(tensor, Tensor) or not tensor.dtype.is_floating_point:
                raise CheckpointError(
                    f"{path}: {name} is no tensor of floating-point numbers: "
                    f"{getattr(tensor, 'dtype', type(tensor).__name__)}"
                )
            self._tensors[name] = tensor
            self.infos[name] = TensorInfo(tuple(tensor.shape), tensor.dtype)

    def read(self, name: str) -> Tensor:
        """Return one tensor."""
        return self._tensors[name]


def _info(file: Path, name: str, shape: list[int], dtype: str) -> TensorInfo:
    if dtype not in _DTYPES:
        raise CheckpointError(f"{file}: {name} has dtype {dtype}, expected one of {[*_DTYPES]}")
    return TensorInfo(tuple(shape), _DTYPES[dtype])


def load_torch(path: Path) -> dict[str, Any]:
    """Return the dictionary in a file written by `torch.save`, never running code from it.

    Raises:
        CheckpointError: if it is damaged, holds no dictionary, or more than plain values.
    """
    # torch.load goes by the suffix .safetensors; an open file has none, but cannot be mapped.
    misnamed = path.suffix == ".safetensors"
    try:
        with path.open("rb") as file:
            mapped = file.read(4) == b"PK\x03\x04" and not misnamed
            file.seek(0)
            content = torch.load(
                file if misnamed else path, map_location="cpu", weights_only=True, mmap=mapped
            )
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: refused, it holds more than tensors and plain values, or is damaged"
        ) from error
    except _UNPICKLING as error:
        what = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"{path}: not readable as a PyTorch file: {what}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a dictionary, found {type(content).__name__}")
    return content


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises:
        CheckpointError: if it is not readable, not JSON, or no object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content
