"""What inspection asks of a model file; `service.checkpoints.opened.ModelFile` has it.

So inspection does not depend on the loaders, nor they on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from service.model.config import WhisperConfig
from service.text.tokenizer import WhisperTokenizer


class StoredTensor(Protocol):
    """What a file says about one tensor."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its extents."""
        ...

    @property
    def encoding(self) -> str:
        """How its numbers are stored."""
        ...

    @property
    def nbytes(self) -> int:
        """Its bytes in the file."""
        ...


class Tensors(Protocol):
    """Named tensors that are read when asked for."""

    @property
    def infos(self) -> Mapping[str, StoredTensor]:
        """The file's own names -> what it says about them."""
        ...

    def read(self, name: str) -> Tensor:
        """Return one tensor."""
        ...


class Sum(Protocol):
    """A checksum that a file carries."""

    @property
    def name(self) -> str:
        """What it covers."""
        ...

    @property
    def stored(self) -> int:
        """What the file says."""
        ...

    @property
    def computed(self) -> int:
        """What its bytes give."""
        ...


class Opened(Protocol):
    """A model file, complete or not."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    @property
    def format(self) -> str:
        """How its weights are stored."""
        ...

    @property
    def source(self) -> str:
        """Where it is."""
        ...

    @property
    def tensors(self) -> Tensors:
        """Its tensors, under its own names."""
        ...

    @property
    def names(self) -> Mapping[str, str]:
        """Hugging Face's name -> the file's."""
        ...

    @property
    def config(self) -> WhisperConfig | None:
        """Its dimensions, None if it is no Whisper."""
        ...

    @property
    def problem(self) -> str | None:
        """Why it is none."""
        ...

    @property
    def assumed(self) -> tuple[str, ...]:
        """Dimensions that nothing in the file says."""
        ...

    @property
    def contradictions(self) -> tuple[str, ...]:
        """Sentences about metadata that the tensors deny."""
        ...

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What the file says beside its tensors."""
        ...

    @property
    def tokenizer(self) -> WhisperTokenizer | None:
        """Its tokens, None if it has none."""
        ...

    @property
    def tokenizer_problem(self) -> str | None:
        """Why it has none."""
        ...

    @property
    def filters(self) -> Tensor | None:
        """Its mel filterbank, f32[n_mels 201]."""
        ...

    def checksums(self) -> Mapping[str, tuple[Sum, ...]]:
        """File name -> checksums."""
        ...
