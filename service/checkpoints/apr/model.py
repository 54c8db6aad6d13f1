"""What an `.apr` file says about a Whisper: dimensions, tokens, how to decode.

Of its weights only an LM head is read, to see whether it is the token embedding.
It may say too little to be served, and still be looked at: what is missing is None or named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from service.checkpoints.apr.names import hf_names
from service.checkpoints.apr.source import AprSource
from service.checkpoints.apr.vocabulary import embedded_tokenizer
from service.checkpoints.checkpoint import CheckpointFormat, GenerationConfig
from service.checkpoints.dims import Dims, dims_from_tensors
from service.checkpoints.hf_config import generation_from_json
from service.checkpoints.state import has_own_head
from service.checkpoints.tensors import RenamedSource
from service.errors import CheckpointError
from service.model.config import WhisperConfig
from service.text.tokenizer import WhisperTokenizer

GENERATION_KEY = "generation_config"


@dataclass(frozen=True, slots=True)
class AprModel:
    """An `.apr` file as a Whisper.

    Attributes:
        source: the file's tensors, pseudo-tensors included, under the file's names.
        names: Hugging Face's name -> the file's.
        dims: what shapes and metadata say.
    """

    source: AprSource
    names: Mapping[str, str]
    dims: Dims

    @property
    def path(self) -> Path:
        """The file that was asked for."""
        return self.source.path

    @property
    def config(self) -> WhisperConfig:
        """The dimensions."""
        return self.dims.config

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What the file says beside its tensors."""
        return self.source.metadata

    @property
    def filters(self) -> Tensor | None:
        """The embedded mel filterbank, f32[n_mels 201]."""
        return self.source.filters

    @property
    def format(self) -> CheckpointFormat:
        """Which layout it is."""
        return CheckpointFormat.APR_V1 if self.source.version == 1 else CheckpointFormat.APR_V2

    @property
    def tensors(self) -> RenamedSource:
        """The tensors under Hugging Face's names, without pseudo-tensors."""
        return RenamedSource(self.source, self.names)

    def tokenizer(self) -> WhisperTokenizer | None:
        """Return the embedded tokenizer, None if there is none.

        Raises:
            CheckpointError: if it is damaged.
        """
        settings = self._generation_settings() or {}
        said = settings.get("is_multilingual")
        return embedded_tokenizer(
            self.path,
            self.metadata,
            self.source.vocabulary,
            said if isinstance(said, bool) else None,
        )

    def generation(self, tokenizer: WhisperTokenizer) -> GenerationConfig:
        """Return how it wants to be decoded: as Earshot wrote it, or the reference's defaults."""
        settings = self._generation_settings()
        return generation_from_json(self.path, settings, self.config, tokenizer)

    def check(self) -> None:
        """Refuse a file that is damaged or contradicts itself; reads all of it once.

        Raises:
            CheckpointError: naming the checksum or the metadata.
        """
        for file_name, checksums in self.source.checksums().items():
            for checksum in checksums:
                if not checksum.holds:
                    raise CheckpointError(
                        f"{self.path.with_name(file_name)}: damaged: the CRC32 of the "
                        f"{checksum.name} is {checksum.computed:#010x}, the file says "
                        f"{checksum.stored:#010x}"
                    )
        if self.dims.contradictions:
            raise CheckpointError(f"{self.path}: {'; '.join(self.dims.contradictions)}")

    def _generation_settings(self) -> Mapping[str, Any] | None:
        settings = self.metadata.get(GENERATION_KEY)
        return settings if isinstance(settings, dict) else None


def open_apr(path: Path) -> AprModel:
    """Read what a file says about a Whisper.

    Raises:
        CheckpointError: if it is no `.apr`, damaged, or no encoder-decoder of Whisper's kind.
    """
    source = AprSource(path)
    names = hf_names(path, source.infos, source.version)
    infos = {hf: source.infos[name] for hf, name in names.items()}
    rows = None if source.filters is None else source.filters.shape[0]
    try:
        dims = dims_from_tensors(infos, source.metadata, rows)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error.message}") from error
    own_head = has_own_head(RenamedSource(source, names))
    dims = replace(dims, config=replace(dims.config, separate_head=own_head))
    return AprModel(source, names, dims)
