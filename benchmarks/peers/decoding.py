"""openai-whisper and transformers as decoders of encoded windows. Runs in the peers' environment.

python benchmarks/peers/decoding.py FOLDER NAME THREADS

FOLDER holds the model (`checkpoint.write`) and what the encoder made of the windows, `encoded.pt`.
A line of stdin is a load; the answer is a line of JSON: seconds and texts, as `Decoded` has them.
The first line of all is the library's version. Knows nothing about Earshot.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.decoding_loads import BEAMS, RETRY, Decoded, Load, batches, in_order
from benchmarks.peers.engines import EOT, PROMPT

KINDS: dict[str, dict[str, Any]] = {
    "greedy": {}, "beams": {"beams": BEAMS}, "sampled": {"temperature": RETRY},
}  # fmt: skip


class Batch(Protocol):
    """Decodes windows of one kind in one batch."""

    version: str

    def decode(
        self, encoded: torch.Tensor, beams: int = 1, temperature: float = 0.0
    ) -> list[list[int]]:
        """f32[n 1500 d_model] -> the tokens of each text, without prompt and end-of-text."""
        ...


class OpenAI:
    """openai-whisper's `decode()`, with its rules."""

    def __init__(self, folder: Path) -> None:
        import whisper  # noqa: PLC0415 - only in the peers' environment

        self.version = f"openai-whisper {whisper.__version__}"
        self._whisper: Any = whisper
        self._model: Any = whisper.load_model(str(folder / "openai.pt"), device="cpu").eval()

    def decode(
        self, encoded: torch.Tensor, beams: int = 1, temperature: float = 0.0
    ) -> list[list[int]]:
        """It knows encoded windows by their shape. Its beams work for one window at a time only."""
        options = self._whisper.DecodingOptions(
            language="en", fp16=False, temperature=temperature,
            beam_size=beams if beams > 1 else None,
        )  # fmt: skip
        parts = torch.split(encoded, 1) if beams > 1 else [encoded]
        results = [self._whisper.decode(self._model, part, options) for part in parts]
        return [list(result.tokens) for own in results for result in own]


class Transformers:
    """transformers' `generate()`, with scaled_dot_product_attention and its timestamp rules."""

    def __init__(self, folder: Path) -> None:
        import transformers  # noqa: PLC0415 - only in the peers' environment

        transformers.logging.set_verbosity_error()
        self.version = f"transformers {transformers.__version__}"
        self._library: Any = transformers
        self._model: Any = transformers.WhisperForConditionalGeneration.from_pretrained(
            str(folder / "hf"), attn_implementation="sdpa"
        ).eval()
        sot, language, task, no_timestamps = PROMPT
        self._model.generation_config = transformers.GenerationConfig(
            bos_token_id=EOT, eos_token_id=EOT, pad_token_id=EOT, decoder_start_token_id=sot,
            lang_to_id={"<|en|>": language}, task_to_id={"transcribe": task},
            no_timestamps_token_id=no_timestamps, is_multilingual=True,
            max_initial_timestamp_index=50, max_length=448,
        )  # fmt: skip

    def decode(
        self, encoded: torch.Tensor, beams: int = 1, temperature: float = 0.0
    ) -> list[list[int]]:
        """One pass: it is kept from seeking to the rest of the window."""
        outputs = self._library.modeling_outputs.BaseModelOutput(last_hidden_state=encoded)
        found = self._model.generate(
            encoder_outputs=outputs, language="en", task="transcribe", return_timestamps=True,
            force_unique_generate_call=True, temperature=temperature, num_beams=beams,
        )  # fmt: skip
        texts = [text[len(PROMPT) - 1 :] for text in found.tolist()]  # with timestamps: one less
        return [text[: text.index(EOT)] if EOT in text else text for text in texts]


DECODERS: dict[str, Callable[[Path], Batch]] = {
    "openai-whisper": OpenAI,
    "transformers": Transformers,
}


def decode(batch: Batch, encoded: torch.Tensor, load: Load) -> Decoded:
    """Decode a load, one batch a kind, one after the other."""
    texts: dict[tuple[str, int], list[int]] = {}
    began = time.perf_counter()
    with torch.inference_mode():
        for kind, windows in batches(load, len(encoded)):
            found = batch.decode(encoded[windows], **KINDS[kind])
            texts |= {(kind, n): text for n, text in zip(windows, found, strict=True)}
    return Decoded(time.perf_counter() - began, in_order(texts))


def main() -> None:
    """Answer until stdin ends."""
    told = os.dup(1)
    os.dup2(2, 1)  # so that what a library prints is not taken for an answer
    folder, name, threads = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    torch.set_num_threads(threads)
    batch = DECODERS[name](folder)
    encoded = torch.load(folder / "encoded.pt")
    with os.fdopen(told, "w") as parent:
        print(batch.version, file=parent, flush=True)
        for line in sys.stdin:
            answer = dataclasses.asdict(decode(batch, encoded, Load(line.strip())))
            print(json.dumps(answer), file=parent, flush=True)


if __name__ == "__main__":
    main()
