"""Records what openai-whisper decodes, detects and aligns for the checkpoints of `TALKATIVE`.

Run it in an environment of its own, from the root of the repository:

    pip install openai-whisper
    python -m tests.parity.record_decoding

It writes tests/parity/data/decoding.json.gz: for each checkpoint a digest of the weights, language
probabilities, the tokens of every case of `decoding_recipes.cases` with the narrow decisions on the
way to them, and words with times. Checkpoints that it holds already are kept: delete it to record
all of them again. Knows nothing about Earshot.
"""

from __future__ import annotations

import gzip
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.parity.decoding_recipes import (
    LONG_LEN,
    MIN_TIMESTAMPS,
    N_LANGUAGES,
    SAMPLE_LEN,
    TALKATIVE,
    Case,
    cases,
    talkative_tensors,
)
from tests.parity.recipes import MIN_DISTINCT_TOKENS, Shape, digest, openai_dims, waveform
from tests.parity.vocabulary import n_text_of, special_tokens, text_tokens

FILE = Path(__file__).parent / "data" / "decoding.json.gz"
NARROW = 1e-4
"""Decisions closer than this are noted."""

whisper: Any = importlib.import_module("whisper")
decoding: Any = importlib.import_module("whisper.decoding")
timing: Any = importlib.import_module("whisper.timing")
tokenizers: Any = importlib.import_module("whisper.tokenizer")
tiktoken: Any = importlib.import_module("tiktoken")


def tokenizer_of(shape: Shape, language: str | None, task: str | None) -> Any:
    """Return the reference's tokenizer over the small vocabulary."""
    n_text = n_text_of(shape.n_vocab, N_LANGUAGES)
    special = special_tokens(N_LANGUAGES)
    encoding = tiktoken.Encoding(
        name="small",
        pat_str=r"""'s| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""",
        mergeable_ranks={text: i for i, text in enumerate(text_tokens(n_text))},
        special_tokens={text: n_text + i for i, text in enumerate(special)},
    )
    return tokenizers.Tokenizer(
        encoding=encoding, num_languages=N_LANGUAGES, language=language or "en",
        task=task or "transcribe",
    )  # fmt: skip


class Watch:
    """Notes how narrow the decisions of a decoding were."""

    def __init__(self) -> None:
        self.step = 0
        self.narrow: dict[int, float] = {}

    def note(self, margin: float) -> None:
        if margin < NARROW:
            self.narrow[self.step] = min(self.narrow.get(self.step, 1.0), margin)


def watched(watch: Watch) -> tuple[Any, Any]:
    """Return the reference's two decoders with a look at their margins."""

    class Greedy(decoding.GreedyDecoder):  # type: ignore[misc]
        def update(self, tokens: Any, logits: Any, sum_logprobs: Any) -> Any:
            best = logits[0].topk(2).values
            watch.note(float(best[0] - best[1]))
            watch.step += 1
            return super().update(tokens, logits, sum_logprobs)

    class Beam(decoding.BeamSearchDecoder):  # type: ignore[misc]
        def update(self, tokens: Any, logits: Any, sum_logprobs: Any) -> Any:
            found = logits.log_softmax(-1).topk(self.beam_size + 2).values
            total = (sum_logprobs[:, None] + found).flatten()
            if len({tuple(row) for row in tokens.tolist()}) == 1:
                total = total[: found.shape[1]]
            top = total.sort(descending=True).values[: 2 * self.beam_size + 1]
            watch.note(float((top[:-1] - top[1:]).nan_to_num(nan=1.0).min()))
            watch.step += 1
            return super().update(tokens, logits, sum_logprobs)

    return Greedy, Beam


def record_case(model: Any, mel: torch.Tensor, case: Case, originals: tuple[Any, Any]) -> Any:
    """Return what one case comes to."""
    watch = Watch()
    decoding.GreedyDecoder, decoding.BeamSearchDecoder = originals
    decoding.GreedyDecoder, decoding.BeamSearchDecoder = watched(watch)
    options = whisper.DecodingOptions(fp16=False, **case.options)
    precision = 30.0 / model.dims.n_audio_ctx
    latest = options.max_initial_timestamp
    result = whisper.decode(model, mel, options)
    return {
        "name": case.name,
        "tokens": result.tokens,
        "avg_logprob": result.avg_logprob,
        "no_speech_prob": result.no_speech_prob,
        "max_initial_timestamp_index": None if latest is None else round(latest / precision),
        "narrow": {str(step): margin for step, margin in watch.narrow.items()},
    }


def record_words(model: Any, mel: torch.Tensor, tokenizer: Any, tokens: list[int]) -> Any:
    """Return the alignment of a text, and its words in two segments."""
    eot = tokenizer.eot
    plain = [t for t in tokens if t < eot and (t < 128 or t >= 256)]
    n_frames = int(mel.shape[-1] * 0.9)
    alignment = timing.find_alignment(model, tokenizer, plain, mel, n_frames)
    half = len(plain) // 2
    seconds = n_frames / 100
    segments: list[dict[str, Any]] = [
        {"seek": 700, "start": 7.0, "end": 7.0 + seconds / 2, "tokens": plain[:half]},
        {"seek": 700, "start": 7.0 + seconds / 2, "end": 7.0 + seconds, "tokens": plain[half:]},
    ]
    given = [(s["start"], s["end"]) for s in segments]
    timing.add_word_timestamps(
        segments=segments, model=model, tokenizer=tokenizer, mel=mel, num_frames=n_frames,
        last_speech_timestamp=5.0,
    )  # fmt: skip
    return {
        "tokens": plain,
        "n_frames": n_frames,
        "given": given,
        "words": [[w.word, w.tokens, float(w.start), float(w.end), float(w.probability)]
                  for w in alignment],
        "segments": [
            [float(s["start"]), float(s["end"]),
             [[w["word"], float(w["start"]), float(w["end"])] for w in s["words"]]]
            for s in segments
        ],
    }  # fmt: skip


def record(shape: Shape, originals: tuple[Any, Any]) -> dict[str, Any]:
    """Return what there is to say about one checkpoint."""
    tensors = talkative_tensors(shape)
    model = whisper.Whisper(whisper.ModelDimensions(**openai_dims(shape))).eval()
    model.load_state_dict({name: torch.from_numpy(array) for name, array in tensors.items()})
    decoding.get_tokenizer = lambda _, language, task, **__: tokenizer_of(shape, language, task)
    audio = [waveform(shape.seed, row, shape.n_samples) for row in range(shape.rows)]
    mels = [whisper.log_mel_spectrogram(row, shape.n_mels) for row in audio]
    tokenizer = tokenizer_of(shape, "en", "transcribe")
    found = []
    for number, case in enumerate(cases(shape)):
        found.append(record_case(model, mels[case.row], case, originals))
        if number >= shape.rows:
            continue
        row, tokens = case.row, found[-1]["tokens"]
        n_timestamps = sum(token >= tokenizer.timestamp_begin for token in tokens)
        counts = f"{len(tokens)} tokens, {len(set(tokens))} distinct, {n_timestamps} timestamps"
        print(f"{shape.name} row {row}: {counts}")  # noqa: T201
        if len(set(tokens)) < MIN_DISTINCT_TOKENS or n_timestamps < MIN_TIMESTAMPS:
            raise SystemExit(f"{shape.name} is not lively: choose another name")
    _, probabilities = whisper.detect_language(model, torch.stack(mels), tokenizer)
    return {
        "weights_sha256": digest(tensors),
        "languages": probabilities,
        "non_speech": list(tokenizer.non_speech_tokens),
        "cases": found,
        "words": [
            record_words(model, mels[row], tokenizer_of(shape, language, None),
                         found[row]["tokens"])
            for row, language in zip(range(shape.rows), ("en", "zh"), strict=False)
        ],
    }  # fmt: skip


def write(content: dict[str, Any]) -> None:
    """Write what has been recorded so far."""
    text = json.dumps(content, separators=(",", ":"), default=np.ndarray.tolist)
    FILE.write_bytes(gzip.compress(text.encode(), mtime=0))


def main() -> None:
    """Record every checkpoint."""
    torch.set_num_threads(1)
    originals = decoding.GreedyDecoder, decoding.BeamSearchDecoder
    content: dict[str, Any] = {}
    if FILE.exists():
        content = json.loads(gzip.decompress(FILE.read_bytes()))
        names = {shape.name for shape in TALKATIVE}
        content = {name: found for name, found in content.items() if name in names}
    for shape in TALKATIVE:
        if shape.name in content:
            continue
        with torch.inference_mode():
            content[shape.name] = record(shape, originals)
        write(content)
    n_ended = sum(
        len(case["tokens"]) not in (SAMPLE_LEN, LONG_LEN)
        for one in content.values()
        for case in one["cases"]
    )
    print(n_ended, "cases ended by themselves")  # noqa: T201


if __name__ == "__main__":
    main()
