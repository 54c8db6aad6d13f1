"""Our parameters, made from a file's tensors on demand. Knows nothing about devices or modules."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from service.checkpoints.names import (
    HF_EMBEDDING,
    HF_HEAD,
    Naming,
    ParameterNames,
    parameter_names,
    parameter_shapes,
)
from service.checkpoints.tensors import TensorInfo, TensorSource
from service.errors import CheckpointError
from service.model.config import WhisperConfig

_NAMED_AT_MOST = 5
"""So many tensors are spelled out in an error message."""


class CheckpointState(Mapping[str, Tensor]):
    """Our parameter names -> tensors, each read and fused when it is asked for.

    So a model of several gigabytes is never in memory twice. All names and shapes are checked when
    this is made.

    Attributes:
        source: the file's own tensors, by the file's own names.

    Raises:
        CheckpointError: naming the tensors that are missing, too many, or of the wrong shape.
    """

    def __init__(self, source: TensorSource, naming: Naming, config: WhisperConfig) -> None:
        self.source = source
        self._shapes = parameter_shapes(config)
        self._names = {names.ours: names.sources(naming) for names in parameter_names(config)}
        self._check(naming)

    def __getitem__(self, name: str) -> Tensor:
        sources = self._names[name]
        if len(sources) == 1 and sources[0] is not None:
            return self.source.read(sources[0])
        tensor = torch.empty(self._shapes[name], dtype=self.dtype(name))
        self.read_into(name, tensor)
        return tensor

    def read_into(self, name: str, target: Tensor) -> None:
        """Copy one of our parameters into a tensor of its shape, of any dtype, on any device."""
        sources = self._names[name]
        for source, rows in zip(sources, target.chunk(len(sources)), strict=True):
            if source is None:
                rows.zero_()
            else:
                rows.copy_(self.source.read(source))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Our parameter names -> shapes, without reading anything."""
        return self._shapes

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """The file's own names -> shapes and dtypes, without reading anything."""
        return self.source.infos

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype that one of our parameters has when it is read."""
        parts = [source for source in self._names[name] if source is not None]
        dtypes = [self.source.infos[part].dtype for part in parts]
        return functools.reduce(torch.promote_types, dtypes)

    def _part_shape(self, name: str) -> tuple[int, ...]:
        first, *rest = self._shapes[name]
        return (first // len(self._names[name]), *rest)

    def _check(self, naming: Naming) -> None:
        expected = {
            source: self._part_shape(name)
            for name, sources in self._names.items()
            for source in sources
            if source is not None
        }
        found = dict(self.source.infos)
        tied = naming is Naming.HF and HF_HEAD not in expected
        head = found.pop(HF_HEAD, None) if tied else None
        self._refuse(
            "missing tensors",
            (f"{n} (expected {_shape(expected[n])})" for n in expected if n not in found),
        )
        self._refuse(
            "tensors that Whisper does not have",
            (f"{n} (found {_shape(found[n].shape)})" for n in found if n not in expected),
        )
        self._refuse(
            "tensors of the wrong shape",
            (
                f"{n} (expected {_shape(shape)}, found {_shape(found[n].shape)})"
                for n, shape in expected.items()
                if found[n].shape != shape
            ),
        )
        if head is not None and has_own_head(self.source):
            raise CheckpointError(
                f"{self.source.path}: {HF_HEAD} differs from {HF_EMBEDDING}, but the config ties "
                "them; tie_word_embeddings must be false for a head of its own"
            )

    def _refuse(self, what: str, tensors: Iterable[str]) -> None:
        names = list(tensors)
        if not names:
            return
        more = f" and {len(names) - _NAMED_AT_MOST} more" if len(names) > _NAMED_AT_MOST else ""
        raise CheckpointError(
            f"{self.source.path}: {what}: {', '.join(names[:_NAMED_AT_MOST])}{more}"
        )


def has_own_head(source: TensorSource) -> bool:
    """Whether a file with Hugging Face's names holds an LM head that is not its token embedding.

    The only way to know is to compare them, so both are read.
    """
    if HF_HEAD not in source.infos or HF_EMBEDDING not in source.infos:
        return False
    if source.infos[HF_HEAD].shape != source.infos[HF_EMBEDDING].shape:
        return True
    try:
        head, embedding = source.read(HF_HEAD), source.read(HF_EMBEDDING)
    except CheckpointError:  # stored in a way that cannot be read: whoever needs it will say so
        return True
    return not torch.equal(head, embedding.to(head.dtype))


def parts_of(
    state: Mapping[str, Tensor], config: WhisperConfig, naming: Naming
) -> Iterator[tuple[str, Tensor]]:
    """Yield our parameters under a file format's names, unfused, one parameter read at a time.

    A bias of a key projection is left out: it adds the same to every score of a query, which the
    softmax does not see.

    Raises:
        CheckpointError: if a parameter is missing or has the wrong shape.
    """
    shapes = parameter_shapes(config)
    for names in parameter_names(config):
        sources = names.sources(naming)
        tensor = _checked(state, names, shapes[names.ours])
        for source, part in zip(sources, tensor.chunk(len(sources)), strict=True):
            if source is not None:
                yield source, part


def _checked(state: Mapping[str, Tensor], names: ParameterNames, shape: tuple[int, ...]) -> Tensor:
    tensor = state.get(names.ours)
    if tensor is None or tuple(tensor.shape) != shape:
        found = "nothing" if tensor is None else _shape(tuple(tensor.shape))
        raise CheckpointError(f"{names.ours}: expected {_shape(shape)}, found {found}")
    return tensor


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
