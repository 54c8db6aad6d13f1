"""The peers, one class each, as their users run them at their best. Runs in the peers' environment.

Each takes batches of 30-s windows, f32 at 16 kHz, and returns the text tokens of each window,
without prompt and end-of-text. All decode greedily, in English, without timestamps and without a
second attempt. Knows nothing about clocks, files of audio or Earshot.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]
EOT = 50_257
PROMPT = (50_258, 50_259, 50_359, 50_363)
"""Start of transcript, English, transcribe, no timestamps."""
WINDOW = 480_000
BATCH_OF_REPLICA = 4


class Engine(Protocol):
    """A loaded model.

    Attributes:
        batch: windows that it takes at once.
    """

    batch: int

    def transcribe(self, windows: list[Samples]) -> list[list[int]]:
        """Return the text tokens of each window."""
        ...


class CTranslate2:
    """faster-whisper's features and CTranslate2's model, called as faster-whisper calls it."""

    def __init__(self, folder: Path, kind: str, threads: int, batch: int = 1) -> None:
        from faster_whisper import WhisperModel  # noqa: PLC0415 - only in the peers' environment

        self.batch = batch
        path = str(folder / f"ct2-{kind}")
        self._whisper: Any = WhisperModel(path, compute_type=kind, cpu_threads=threads)

    def transcribe(self, windows: list[Samples]) -> list[list[int]]:
        """`max_length` counts the prompt and twice what is decoded: 448 is 224 tokens."""
        from faster_whisper.transcribe import get_ctranslate2_storage  # noqa: PLC0415

        frames = 3000
        features = np.zeros((len(windows), 80, frames), np.float32)
        for place, samples in enumerate(windows):
            found = self._whisper.feature_extractor(samples)[:, :frames]
            features[place, :, : found.shape[1]] = found
        results = self._whisper.model.generate(
            get_ctranslate2_storage(features), [list(PROMPT)] * len(windows),
            beam_size=1, max_length=448, suppress_blank=False, suppress_tokens=[],
            sampling_temperature=0,
        )  # fmt: skip
        return [[t for t in result.sequences_ids[0] if t < EOT] for result in results]


class WhisperCpp:
    """whisper.cpp through pywhispercpp, built for this CPU."""

    batch = 1

    def __init__(self, folder: Path, kind: str, threads: int) -> None:
        import _pywhispercpp as api  # noqa: PLC0415 - only in the peers' environment
        from pywhispercpp.model import Model  # noqa: PLC0415

        self._api: Any = api
        self._model: Any = Model(
            str(folder / f"ggml-{kind}.bin"), n_threads=threads, language="en", no_context=True,
            no_timestamps=True, single_segment=True, temperature_inc=0.0, suppress_blank=False,
            print_progress=False, print_realtime=False, redirect_whispercpp_logs_to=None,
        )  # fmt: skip

    def transcribe(self, windows: list[Samples]) -> list[list[int]]:
        """Whisper.cpp has no batches."""
        return [self._one(samples) for samples in windows]

    def _one(self, samples: Samples) -> list[int]:
        self._model.transcribe(samples)
        context, api = self._model._ctx, self._api
        return [
            token
            for segment in range(api.whisper_full_n_segments(context))
            for at in range(api.whisper_full_n_tokens(context, segment))
            if (token := api.whisper_full_get_token_id(context, segment, at)) < EOT
        ]


class OpenAI:
    """openai-whisper, float32: its features and its `decode`."""

    batch = 1

    def __init__(self, folder: Path, kind: str, threads: int) -> None:
        import torch  # noqa: PLC0415 - only in the peers' environment
        import whisper  # noqa: PLC0415

        torch.set_num_threads(threads)
        self._whisper: Any = whisper
        self._model: Any = whisper.load_model(str(folder / "openai.pt"), device="cpu")
        self._options = whisper.DecodingOptions(
            language="en", without_timestamps=True, fp16=False, temperature=0.0,
            suppress_tokens=None, suppress_blank=False,
        )  # fmt: skip

    def transcribe(self, windows: list[Samples]) -> list[list[int]]:
        """One after the other."""
        texts = []
        for samples in windows:
            padded = self._whisper.pad_or_trim(samples)
            mel = self._whisper.log_mel_spectrogram(padded)
            texts.append(list(self._whisper.decode(self._model, mel, self._options).tokens))
        return texts


class Transformers:
    """transformers, with scaled_dot_product_attention, in float32 or bfloat16."""

    batch = 1

    def __init__(self, folder: Path, kind: str, threads: int) -> None:
        import torch  # noqa: PLC0415 - only in the peers' environment
        import transformers  # noqa: PLC0415

        torch.set_num_threads(threads)
        self._torch: Any = torch
        self._dtype = getattr(torch, kind)
        self._features: Any = transformers.WhisperFeatureExtractor()
        self._model: Any = transformers.WhisperForConditionalGeneration.from_pretrained(
            str(folder / "hf"), dtype=self._dtype, attn_implementation="sdpa"
        ).eval()

    def transcribe(self, windows: list[Samples]) -> list[list[int]]:
        """The prompt is given as it is, so that it does not look for a language."""
        found = self._features(windows, sampling_rate=16_000, return_tensors="pt")
        prompt = self._torch.tensor([PROMPT] * len(windows))
        with self._torch.inference_mode():
            tokens = self._model.generate(
                found.input_features.to(self._dtype), decoder_input_ids=prompt,
                num_beams=1, do_sample=False, max_new_tokens=224,
            )  # fmt: skip
        return [[t for t in row if t < EOT] for row in tokens.tolist()]


ENGINES: dict[str, Callable[[Path, int], Engine]] = {
    "faster-whisper float32": lambda folder, threads: CTranslate2(folder, "float32", threads),
    "faster-whisper int8": lambda folder, threads: CTranslate2(folder, "int8", threads),
    "faster-whisper int8, batches": lambda folder, threads: CTranslate2(
        folder, "int8", threads, BATCH_OF_REPLICA
    ),
    "faster-whisper float32, batches": lambda folder, threads: CTranslate2(
        folder, "float32", threads, BATCH_OF_REPLICA
    ),
    "whisper.cpp f16": lambda folder, threads: WhisperCpp(folder, "f16", threads),
    "whisper.cpp q8_0": lambda folder, threads: WhisperCpp(folder, "q8_0", threads),
    "openai-whisper": lambda folder, threads: OpenAI(folder, "float32", threads),
    "transformers float32": lambda folder, threads: Transformers(folder, "float32", threads),
    "transformers bfloat16": lambda folder, threads: Transformers(folder, "bfloat16", threads),
}
"""Name -> a function that loads it from the folder of models for so many threads."""
