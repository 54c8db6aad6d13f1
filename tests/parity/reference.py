"""openai-whisper as the recording scripts run it, with an eye on how narrow its decisions are.

Needs openai-whisper, so no test imports it. Knows nothing about Earshot.
"""

from __future__ import annotations

import contextlib
import gzip
import importlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.parity.recipes import Array, Shape, openai_dims

NARROW = 1e-3
"""Decisions closer than this are noted."""

# numba, which warps the reference's alignments, would give torch as many threads as it has.
os.environ["NUMBA_NUM_THREADS"] = "1"
whisper: Any = importlib.import_module("whisper")
decoding: Any = importlib.import_module("whisper.decoding")
timing: Any = importlib.import_module("whisper.timing")
tokenizing: Any = importlib.import_module("whisper.tokenizer")
transcribing: Any = importlib.import_module("whisper.transcribe")
tiktoken: Any = importlib.import_module("tiktoken")

_GREEDY: Any = decoding.GreedyDecoder
_BEAM: Any = decoding.BeamSearchDecoder


def encoding_of(text: Sequence[bytes], special: Sequence[str]) -> Any:
    """Return tiktoken's encoding of a vocabulary."""
    return tiktoken.Encoding(
        name="small",
        pat_str=r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""",
        mergeable_ranks={token: i for i, token in enumerate(text)},
        special_tokens={token: len(text) + i for i, token in enumerate(special)},
    )


def model_of(shape: Shape, tensors: Mapping[str, Array], kind: Any = None) -> Any:
    """Return the reference's model with these weights, of a subclass `kind` if one is given."""
    model = (kind or whisper.Whisper)(whisper.ModelDimensions(**openai_dims(shape))).eval()
    model.load_state_dict({name: torch.from_numpy(array) for name, array in tensors.items()})
    return model


class Watch:
    """What was seen of one decoding.

    Attributes:
        narrow: step -> its margin over the runner-up, where that is small. Of a beam search, the
            smallest difference of two neighbours among the candidates of the step.
        strays: steps at which a token was sampled that is not the likeliest.
        n_ended: hypotheses of a beam search that have ended.
        logits: those of the first row at each step of a greedy or sampled decoding, after rules.
    """

    def __init__(self) -> None:
        self.narrow: dict[int, float] = {}
        self.strays: list[int] = []
        self.n_ended = 0
        self.logits: list[torch.Tensor] = []
        self._step = 0

    def greedy(self, before: Any, logits: Any, after: Any) -> None:
        """Note one step of tokens without beams."""
        best = logits[0].topk(2).values
        self._note(float(best[0] - best[1]))
        running = before[:, -1] != after.new_tensor(self.eot)
        if bool(((after[:, -1] != logits.argmax(-1)) & running).any()):
            self.strays.append(self._step)
        self.logits.append(logits[0].clone())
        self._step += 1

    def beams(self, tokens: Any, logits: Any, sums: Any, beam_size: int) -> None:
        """Note one step of a beam search."""
        found = logits.log_softmax(-1).topk(beam_size + 2).values
        total = (sums[:, None] + found).flatten()
        if len({tuple(row) for row in tokens.tolist()}) == 1:
            total = total[: found.shape[1]]
        top = total.sort(descending=True).values[: 2 * beam_size + 1]
        self._note(float((top[:-1] - top[1:]).nan_to_num(nan=1.0).min()))
        self._step += 1

    def _note(self, margin: float) -> None:
        if margin < NARROW:
            self.narrow[self._step] = float(f"{margin:.3g}")

    eot = -1


@contextlib.contextmanager
def watched() -> Iterator[Watch]:
    """Watch the decodings within."""
    watch = Watch()

    class Greedy(_GREEDY):  # type: ignore[misc]
        def update(self, tokens: Any, logits: Any, sum_logprobs: Any) -> Any:
            watch.eot = self.eot
            found, completed = super().update(tokens, logits, sum_logprobs)
            watch.greedy(tokens, logits, found)
            return found, completed

    class Beam(_BEAM):  # type: ignore[misc]
        def update(self, tokens: Any, logits: Any, sum_logprobs: Any) -> Any:
            watch.beams(tokens, logits, sum_logprobs, self.beam_size)
            found = super().update(tokens, logits, sum_logprobs)
            watch.n_ended = len(self.finished_sequences[0])
            return found

    decoding.GreedyDecoder, decoding.BeamSearchDecoder = Greedy, Beam
    try:
        yield watch
    finally:
        decoding.GreedyDecoder, decoding.BeamSearchDecoder = _GREEDY, _BEAM


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write recordings: the same bytes for the same content."""
    text = json.dumps(content, separators=(",", ":"), default=np.ndarray.tolist)
    path.write_bytes(gzip.compress(text.encode(), mtime=0))
