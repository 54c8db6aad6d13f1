"""Records what openai-whisper's `transcribe()` makes of the cases of `longform`.

Run it in an environment of its own, from the root of the repository, with EARSHOT_SHARED set:

    pip install openai-whisper soundfile
    python -m tests.parity.record_longform

It writes tests/parity/data/longform.json.gz: the thresholds of each case, every decoding of a
window with the tokens of narrow margin, and the reference's segments. The reference's code runs as
it is; only its constants say that a window is shorter than 30 s, and its tokenizer and its model
are told which languages there are. Thresholds lie in the widest gap near the middle of the figures
that the checkpoint gives without any, so that windows fall on both sides and none by a hair.

At the end it checks the whole file: an error names the cases that are not lively, those in which
sampling was not argmax, and a cause of fallback that is too rare. Names of cases as arguments
record those again and keep the others.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.parity import longform
from tests.parity.longform import CASES, CAUSES, DATA, LADDER, Case, Checkpoint, causes_of
from tests.parity.recipes import Array, digest
from tests.parity.recordings import recording, samples_sha256
from tests.parity.reference import (
    Watch,
    decoding,
    encoding_of,
    model_of,
    tokenizing,
    transcribing,
    watched,
    whisper,
    write,
)

MIN_DISTINCT = 30
MIN_TIMESTAMPS = 3
MIN_OF_EACH_CAUSE = 5
FIGURES = ("avg_logprob", "compression_ratio", "no_speech_prob")


def _audio(checkpoint: Checkpoint) -> Array:
    if checkpoint.recording:
        return recording(checkpoint.recording, Path(os.environ["EARSHOT_SHARED"]))
    return longform.audio(checkpoint)


def _model(checkpoint: Checkpoint) -> Any:
    class Model(whisper.Whisper):  # type: ignore[misc]
        is_multilingual = checkpoint.n_languages > 0
        num_languages = checkpoint.n_languages

    return model_of(checkpoint.shape, longform.tensors(checkpoint), Model)


@contextlib.contextmanager
def _scaled(checkpoint: Checkpoint) -> Iterator[None]:
    """Make a window as long as the checkpoint's, and the tokenizer its own."""
    encoding = encoding_of(longform.texts(), checkpoint.special)
    n_frames = 2 * checkpoint.shape.n_audio_ctx

    def get_tokenizer(
        multilingual: bool, *, language: Any = None, task: Any = None, **_: Any
    ) -> Any:
        return tokenizing.Tokenizer(
            encoding=encoding,
            num_languages=checkpoint.n_languages,
            language=(language or "en") if multilingual else None,
            task=(task or "transcribe") if multilingual else None,
        )

    values = {
        (transcribing, "N_FRAMES"): n_frames,
        (transcribing, "N_SAMPLES"): n_frames * 160,
        (transcribing, "get_tokenizer"): get_tokenizer,
        (decoding, "CHUNK_LENGTH"): checkpoint.shape.n_audio_ctx / 50,
        (decoding, "get_tokenizer"): get_tokenizer,
    }
    before = {(module, name): getattr(module, name) for module, name in values}
    for (module, name), value in values.items():
        setattr(module, name, value)
    try:
        yield
    finally:
        for (module, name), value in before.items():
            setattr(module, name, value)


class Recorder:
    """Notes every result of `decode()`, and what was seen of it."""

    def __init__(self, model: Any) -> None:
        self.results: list[Any] = []
        self.watches: list[Watch] = []
        self._decode = model.decode
        model.decode = self._noting

    def _noting(self, mel: Any, options: Any) -> Any:
        with watched() as watch:
            result = self._decode(mel, options)
        watch.logits.clear()
        self.results.append(result)
        self.watches.append(watch)
        return result


def _run(case: Case, thresholds: dict[str, Any], temperature: Any) -> tuple[Any, Recorder]:
    model = _model(case.checkpoint)
    recorder = Recorder(model)
    suppress = [-1, *longform.suppressed()]
    torch.manual_seed(case.seed)
    with _scaled(case.checkpoint), torch.inference_mode():
        found = transcribing.transcribe(
            model, _audio(case.checkpoint), temperature=temperature, fp16=False,
            suppress_tokens=suppress, **thresholds, **case.options,
        )  # fmt: skip
    return found, recorder


def _between(values: list[float], share: float) -> float:
    """Return the middle of the widest gap near the quantile `share`."""
    ordered = sorted(set(values))
    middle = share * (len(ordered) - 1)
    near = [i for i in range(len(ordered) - 1) if abs(i + 0.5 - middle) <= max(1, len(ordered) / 5)]
    place = max(near, key=lambda i: ordered[i + 1] - ordered[i])
    return float(f"{(ordered[place] + ordered[place + 1]) / 2:.7g}")


NEVER: dict[str, Any] = {
    "compression_ratio_threshold": None, "logprob_threshold": None, "no_speech_threshold": None,
}  # fmt: skip


def _thresholds(checkpoint: Checkpoint) -> dict[str, Any]:
    results = []
    for conditions in (True, False):
        options: dict[str, object] = {
            "language": "en",
            "condition_on_previous_text": conditions,
        }
        results += _run(Case("plain", checkpoint, options), NEVER, 0.0)[1].results
    repetition, guess, silence = checkpoint.shares
    return {
        "compression_ratio_threshold": _between([r.compression_ratio for r in results], repetition),
        "logprob_threshold": _between([r.avg_logprob for r in results], guess),
        "no_speech_threshold": _between([r.no_speech_prob for r in results], silence),
    }


def _segment(found: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {
        name: round(value, 7) if isinstance(value, float) else value
        for name, value in found.items()
        if name not in {"id", "text"}
    }
    if "words" in kept:
        kept["words"] = [
            [w["word"], *(round(float(w[n]), 4) for n in ("start", "end", "probability"))]
            for w in kept["words"]
        ]  # fmt: skip
    return kept


def record(case: Case, thresholds: dict[str, Any]) -> dict[str, Any]:
    """Return what goes into the file for a case."""
    found, recorder = _run(case, thresholds, LADDER)
    checkpoint = case.checkpoint
    return {
        "thresholds": thresholds,
        "weights_sha256": digest(longform.tensors(checkpoint)),
        "audio_sha256": samples_sha256(_audio(checkpoint)) if checkpoint.recording else None,
        "language": found["language"],
        "decodings": [
            {
                "temperature": result.temperature,
                "tokens": result.tokens,
                **{name: float(f"{getattr(result, name):.7g}") for name in FIGURES},
                "narrow": {str(step): margin for step, margin in watch.narrow.items()},
                "strays": watch.strays,
            }
            for result, watch in zip(recorder.results, recorder.watches, strict=True)
        ],
        "segments": [_segment(segment) for segment in found["segments"]],
    }


def complaints(recorded: dict[str, Any]) -> list[str]:
    """Return what is wrong with recordings."""
    found: list[str] = []
    causes = Counter[str]()
    for case in CASES:
        decodings = recorded[case.name]["decodings"]
        causes += causes_of(recorded[case.name])
        begin = case.checkpoint.shape.n_vocab - case.checkpoint.n_timestamps
        distinct = [len(set(one["tokens"])) for one in decodings]
        stamps = [sum(token >= begin for token in one["tokens"]) for one in decodings]
        if case.has_timestamps and np.median(stamps) < MIN_TIMESTAMPS:
            found.append(f"{case.name} is not lively: {stamps} timestamps a window")
        if not case.has_timestamps and any(stamps):
            found.append(f"{case.name} has timestamps: ours does not cut text only by them")
        if np.median(distinct) < MIN_DISTINCT:
            found.append(f"{case.name} is not lively: {distinct} distinct tokens a window")
        if any(one["strays"] for one in decodings):
            found.append(f"{case.name}: sampling was not argmax, choose another seed")
    print(dict(causes))  # noqa: T201
    if min(causes[cause] for cause in CAUSES) < MIN_OF_EACH_CAUSE:
        found.append(f"too few fallbacks: {causes}")
    return found


def main() -> None:
    """Record every case, or those that are named."""
    torch.set_num_threads(1)
    wanted = set(sys.argv[1:])
    recorded: dict[str, Any] = longform.recorded() if wanted else {}
    thresholds: dict[str, dict[str, Any]] = {}
    for case in CASES:
        if wanted and case.name not in wanted:
            continue
        name = case.checkpoint.shape.name
        thresholds[name] = thresholds.get(name) or _thresholds(case.checkpoint)
        recorded[case.name] = record(case, thresholds[name])
        write(DATA, {case.name: recorded[case.name] for case in CASES if case.name in recorded})
        print(case.name, dict(causes_of(recorded[case.name])), flush=True)  # noqa: T201
    found = complaints(recorded)
    if found:
        raise SystemExit("\n".join(found))
    print(f"{len(CASES)} cases, {DATA.stat().st_size} bytes")  # noqa: T201


if __name__ == "__main__":
    main()
