"""Records what openai-whisper's `transcribe()` makes of the cases of `longform`.

Run it in an environment of its own, from the root of the repository:

    pip install openai-whisper
    python -m tests.parity.record_longform

It writes tests/parity/data/longform.json.gz: the thresholds of each case, the reference's segments,
and the margins of its tokens over their runners-up where they are small. The reference's code runs
as it is; only its constants say that a window is shorter than 30 s, and its tokenizer and its model
are told which languages there are. Thresholds lie in the widest gap near the middle of the figures
that the checkpoint gives without any, so that windows fall on both sides and none by a hair.
"""

from __future__ import annotations

import contextlib
import gzip
import importlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from tests.parity import longform
from tests.parity.longform import CASES, DATA, LADDER, Case, Checkpoint
from tests.parity.recipes import digest, openai_dims

SMALL_MARGIN = 1e-3
MIN_DISTINCT = 30
MIN_TIMESTAMPS = 3
MIN_OF_EACH_CAUSE = 5

whisper = importlib.import_module("whisper")
decoding = importlib.import_module("whisper.decoding")
transcribing = importlib.import_module("whisper.transcribe")
tokenizing = importlib.import_module("whisper.tokenizer")


def _encoding(checkpoint: Checkpoint) -> Any:
    tiktoken = importlib.import_module("tiktoken")
    texts = longform.texts()
    added = [
        *longform.specials(checkpoint.languages),
        *longform.timestamps(checkpoint.n_timestamps),
    ]
    return tiktoken.Encoding(
        name=checkpoint.shape.name,
        pat_str=r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""",
        mergeable_ranks={text: i for i, text in enumerate(texts)},
        special_tokens={text: len(texts) + i for i, text in enumerate(added)},
    )


def _model(checkpoint: Checkpoint) -> Any:
    languages = checkpoint.languages

    class Model(whisper.Whisper):  # type: ignore[misc, name-defined]
        is_multilingual = bool(languages)
        num_languages = len(languages)

    state = longform.tensors(checkpoint)
    model = Model(whisper.ModelDimensions(**openai_dims(checkpoint.shape))).eval()
    model.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    return model


class Argmax:
    """Stands for sampling: at the ladder's temperatures only ties could fall otherwise."""

    def __init__(self, logits: Any) -> None:
        self._logits = logits

    def sample(self) -> Any:
        return self._logits.argmax(dim=-1)


@contextlib.contextmanager
def _scaled(checkpoint: Checkpoint) -> Iterator[None]:
    """Make a window as long as the checkpoint's, and the tokenizer its own."""
    encoding, languages = _encoding(checkpoint), checkpoint.languages
    n_frames = 2 * checkpoint.shape.n_audio_ctx

    def get_tokenizer(
        multilingual: bool, *, language: Any = None, task: Any = None, **_: Any
    ) -> Any:
        return tokenizing.Tokenizer(
            encoding=encoding,
            num_languages=len(languages),
            language=(language or "en") if multilingual else None,
            task=(task or "transcribe") if multilingual else None,
        )

    values = {
        (transcribing, "N_FRAMES"): n_frames,
        (transcribing, "N_SAMPLES"): n_frames * 160,
        (transcribing, "get_tokenizer"): get_tokenizer,
        (decoding, "CHUNK_LENGTH"): checkpoint.shape.n_audio_ctx / 50,
        (decoding, "get_tokenizer"): get_tokenizer,
        (decoding, "Categorical"): Argmax,
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
    """Notes every result of `decode()`, and the margin of every token that was chosen."""

    def __init__(self, model: Any) -> None:
        self.results: list[Any] = []
        self.margins: list[list[float]] = []
        self._decode = model.decode
        model.decode = self._noting

    def _noting(self, mel: Any, options: Any) -> Any:
        margins: list[float] = []
        update = decoding.GreedyDecoder.update

        def noting(decoder: Any, tokens: Any, logits: Any, sums: Any) -> Any:
            best = logits.topk(2)
            margins.append(float(best.values[0, 0] - best.values[0, 1]))
            return update(decoder, tokens, logits, sums)

        decoding.GreedyDecoder.update = noting
        try:
            result = self._decode(mel, options)
        finally:
            decoding.GreedyDecoder.update = update
        self.results.append(result)
        self.margins.append(margins)
        return result


def _run(case: Case, thresholds: dict[str, Any], temperature: Any) -> tuple[Any, Recorder]:
    model = _model(case.checkpoint)
    recorder = Recorder(model)
    suppress = [-1, *longform.suppressed()]
    with _scaled(case.checkpoint), torch.inference_mode():
        found = transcribing.transcribe(
            model, longform.audio(case.checkpoint), temperature=temperature, fp16=False,
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
        plain = Case("plain", replace(checkpoint, seconds=min(checkpoint.seconds, 120)), options)
        results += _run(plain, NEVER, 0.0)[1].results
    return {
        "compression_ratio_threshold": _between([r.compression_ratio for r in results], 0.6),
        "logprob_threshold": _between([r.avg_logprob for r in results], 0.5),
        "no_speech_threshold": _between([r.no_speech_prob for r in results], 0.75),
    }


def _causes(results: list[Any], limits: dict[str, Any]) -> Counter[str]:
    """Count why windows failed, or did not though their text is a guess."""
    causes: Counter[str] = Counter()
    for result in results:
        guess = result.avg_logprob < limits["logprob_threshold"]
        if guess and result.no_speech_prob > limits["no_speech_threshold"]:
            causes["silence"] += 1
        elif result.compression_ratio > limits["compression_ratio_threshold"]:
            causes["repetition"] += 1
        elif guess:
            causes["logprob"] += 1
    return causes


def _assert_lively(case: Case, results: list[Any]) -> None:
    begin = case.checkpoint.shape.n_vocab - case.checkpoint.n_timestamps
    distinct = np.median([len(set(result.tokens)) for result in results])
    stamps = np.median([sum(t >= begin for t in result.tokens) for result in results])
    if distinct < MIN_DISTINCT or stamps < MIN_TIMESTAMPS:
        raise SystemExit(f"{case.name}: {distinct} distinct tokens, {stamps} timestamps a window")


def record(case: Case, thresholds: dict[str, Any]) -> tuple[dict[str, Any], Counter[str]]:
    """Return what goes into the file for a case, and its causes of fallback."""
    found, recorder = _run(case, thresholds, LADDER)
    _assert_lively(case, recorder.results)
    small = [
        {str(i): margin for i, margin in enumerate(margins) if margin < SMALL_MARGIN}
        for margins in recorder.margins
    ]
    segments: list[dict[str, Any]] = [
        {
            name: round(value, 7) if isinstance(value, float) else value
            for name, value in segment.items()
            if name not in {"id", "text"}
        }
        for segment in found["segments"]
    ]
    for segment in segments:
        if "words" in segment:
            segment["words"] = [
                [w["word"], *(round(float(w[n]), 4) for n in ("start", "end", "probability"))]
                for w in segment["words"]
            ]  # fmt: skip
    kept = {
        "thresholds": thresholds,
        "weights_sha256": digest(longform.tensors(case.checkpoint)),
        "language": found["language"],
        "decoded": len(recorder.results),
        "margins": small,
        "segments": segments,
    }
    return kept, _causes(recorder.results, thresholds)


def main() -> None:
    """Record every case."""
    torch.set_num_threads(1)
    thresholds: dict[str, dict[str, Any]] = {}
    recorded, causes = {}, Counter[str]()
    for case in CASES:
        name = case.checkpoint.shape.name
        thresholds[name] = thresholds.get(name) or _thresholds(case.checkpoint)
        recorded[case.name], own = record(case, thresholds[name])
        causes += own
        DATA.write_bytes(gzip.compress(json.dumps(recorded).encode(), mtime=0))
        print(case.name, recorded[case.name]["decoded"], dict(own), flush=True)  # noqa: T201
    if min(causes[cause] for cause in ("repetition", "logprob", "silence")) < MIN_OF_EACH_CAUSE:
        raise SystemExit(f"too few fallbacks: {causes}")
    print(f"{DATA.stat().st_size} bytes, {dict(causes)}")  # noqa: T201


if __name__ == "__main__":
    main()
