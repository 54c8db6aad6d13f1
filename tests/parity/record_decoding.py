"""Records what openai-whisper decodes, detects and aligns for the checkpoints of `TALKATIVE`.

Run it in an environment of its own, from the root of the repository:

    pip install openai-whisper
    python -m tests.parity.record_decoding

It writes tests/parity/data/decoding.json.gz: for each checkpoint a digest of the weights, language
probabilities, the tokens of every case of `decoding_recipes.cases` with the narrow decisions on the
way to them, what it draws its second token from, and words with times. It ends with an error where
a checkpoint is not lively. Names of checkpoints as arguments record those again, and the others are
kept. Knows nothing about Earshot.
"""

from __future__ import annotations

import sys
from typing import Any

import torch

from tests.parity.decoding_recipes import (
    DRAWN_TEMPERATURES,
    FILE,
    MIN_TIMESTAMPS,
    N_LANGUAGES,
    TALKATIVE,
    Case,
    cases,
    drawn_options,
    recorded_decodings,
    talkative_tensors,
)
from tests.parity.recipes import MIN_DISTINCT_TOKENS, Shape, digest, waveform
from tests.parity.reference import (
    decoding,
    encoding_of,
    model_of,
    timing,
    tokenizing,
    watched,
    whisper,
    write,
)
from tests.parity.vocabulary import n_text_of, special_tokens, text_tokens

N_LIKELIEST = 20


def tokenizer_of(shape: Shape, language: str | None, task: str | None) -> Any:
    """Return the reference's tokenizer over the small vocabulary."""
    text = text_tokens(n_text_of(shape.n_vocab, N_LANGUAGES))
    return tokenizing.Tokenizer(
        encoding=encoding_of(text, special_tokens(N_LANGUAGES)),
        num_languages=N_LANGUAGES,
        language=language or "en",
        task=task or "transcribe",
    )


def record_case(model: Any, mel: torch.Tensor, case: Case) -> Any:
    """Return what one case comes to."""
    options = whisper.DecodingOptions(fp16=False, **case.options)
    precision = 30.0 / model.dims.n_audio_ctx
    latest = options.max_initial_timestamp
    with watched() as watch:
        result = whisper.decode(model, mel, options)
    return {
        "name": case.name,
        "tokens": result.tokens,
        "avg_logprob": result.avg_logprob,
        "no_speech_prob": result.no_speech_prob,
        "max_initial_timestamp_index": None if latest is None else round(latest / precision),
        "n_ended": watch.n_ended,
        "narrow": {str(step): margin for step, margin in watch.narrow.items()},
    }


def record_drawn(model: Any, mel: torch.Tensor) -> Any:
    """Return the distributions that the second token is drawn from, the likeliest tokens of each.

    Logits after the reference's rules, divided by the temperature as its `GreedyDecoder` does.
    """
    options = whisper.DecodingOptions(fp16=False, sample_len=2, **drawn_options())
    with watched() as watch:
        first = whisper.decode(model, mel, options).tokens[0]
    found = []
    for temperature in DRAWN_TEMPERATURES:
        best = (watch.logits[1] / temperature).softmax(-1).topk(N_LIKELIEST)
        found.append({"tokens": best.indices.tolist(), "probabilities": best.values.tolist()})
    return {"first": first, "distributions": found}


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


def assert_lively(shape: Shape, row: int, tokens: list[int], timestamp_begin: int) -> None:
    """End here if a window is not worth comparing."""
    n_timestamps = sum(token >= timestamp_begin for token in tokens)
    counts = f"{len(tokens)} tokens, {len(set(tokens))} distinct, {n_timestamps} timestamps"
    print(f"{shape.name} row {row}: {counts}", flush=True)  # noqa: T201
    if len(set(tokens)) < MIN_DISTINCT_TOKENS or n_timestamps < MIN_TIMESTAMPS:
        raise SystemExit(f"{shape.name} is not lively: choose another name")


def record(shape: Shape) -> dict[str, Any]:
    """Return what there is to say about one checkpoint."""
    tensors = talkative_tensors(shape)
    model = model_of(shape, tensors)
    decoding.get_tokenizer = lambda _, language, task, **__: tokenizer_of(shape, language, task)
    audio = [waveform(shape.seed, row, shape.n_samples) for row in range(shape.rows)]
    mels = [whisper.log_mel_spectrogram(row, shape.n_mels) for row in audio]
    tokenizer = tokenizer_of(shape, "en", "transcribe")
    found = []
    for case in cases(shape):
        found.append(record_case(model, mels[case.row], case))
        if case.name.startswith("greedy"):
            assert_lively(shape, case.row, found[-1]["tokens"], tokenizer.timestamp_begin)
    _, probabilities = whisper.detect_language(model, torch.stack(mels), tokenizer)
    return {
        "weights_sha256": digest(tensors),
        "languages": probabilities,
        "non_speech": list(tokenizer.non_speech_tokens),
        "cases": found,
        "drawn": record_drawn(model, mels[0]),
        "words": [
            record_words(model, mels[row], tokenizer_of(shape, language, None),
                         found[row]["tokens"])
            for row, language in zip(range(shape.rows), ("en", "zh"), strict=False)
        ],
    }  # fmt: skip


def main() -> None:
    """Record every checkpoint, or those that are named."""
    torch.set_num_threads(1)
    wanted = set(sys.argv[1:])
    content: dict[str, Any] = recorded_decodings() if wanted else {}
    for shape in TALKATIVE:
        if not wanted or shape.name in wanted:
            with torch.inference_mode():
                content[shape.name] = record(shape)
            names = [each.name for each in TALKATIVE if each.name in content]
            write(FILE, {name: content[name] for name in names})
    everything = [case for one in content.values() for case in one["cases"]]
    beams = [case for case in everything if "beam" in case["name"]]
    n_tokens = sum(len(case["tokens"]) for case in everything)
    n_ended = sum(case["n_ended"] > 0 for case in beams)
    print(  # noqa: T201
        f"{len(everything)} cases, {n_tokens} tokens, {FILE.stat().st_size} bytes; "
        f"hypotheses ended in {n_ended} of {len(beams)} beam searches"
    )
    if 3 * n_ended < len(beams):
        raise SystemExit("too few: patience and length penalty make no difference")


if __name__ == "__main__":
    main()
