"""Scores a model folder on people it never heard, through the service's own transcription.

To be run once for each released file: whoever picks a model by these figures has trained on them.

python -m training.evaluate --root DATA --model service/builtin --to evaluation.json
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import jiwer
import typer
from rich.progress import track

from service.api.deps import Serving
from service.in_process import load_serving
from service.metrics import Metrics
from service.settings import Settings
from service.transcription.params import TranscriptionParams, Vad
from training import examination
from training.corpora import normalise
from training.examination import Question

Scores = dict[str, Any]


async def answer(
    serving: Serving, questions: list[Question], params: TranscriptionParams
) -> list[str]:
    """Return the transcript of each clip, one after the other."""
    texts = []
    for question in track(questions, "transcribing"):
        session = serving.engine.session()
        transcription = serving.transcriber.open(
            question.samples, params, session, request_id="evaluation"
        )
        try:
            texts.append((await transcription.result()).text)
        finally:
            transcription.close()
    return texts


def score_words(questions: list[Question], answers: list[str]) -> Scores:
    """Return word error rates: overall, by part and by speaker."""
    groups: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for question, text in zip(questions, answers, strict=True):
        for key in ("all", question.part, f"speaker {question.speaker}"):
            groups[key].append((question.text, normalise(text)))
    return {key: _rate(pairs) for key, pairs in sorted(groups.items())}


def _rate(pairs: list[tuple[str, str]]) -> Scores:
    measured = jiwer.process_words([said for said, _ in pairs], [found for _, found in pairs])
    return {
        "clips": len(pairs),
        "words": sum(len(said.split()) for said, _ in pairs),
        "wer": round(measured.wer, 4),
        "substitutions": measured.substitutions,
        "deletions": measured.deletions,
        "insertions": measured.insertions,
    }


def score_silence(questions: list[Question], answers: list[str]) -> Scores:
    """Return in how many clips without digits something was heard, by kind."""
    groups: dict[str, list[bool]] = defaultdict(list)
    for question, text in zip(questions, answers, strict=True):
        for key in ("all", question.part):
            groups[key].append(bool(text.strip()))
    return {
        key: {"clips": len(found), "false": sum(found), "rate": round(sum(found) / len(found), 4)}
        for key, found in sorted(groups.items())
    }


async def examine(root: Path, model: Path) -> Scores:
    """Return all figures of a model folder."""
    clips = examination.test_clips(root)
    digits = examination.digit_questions(root, clips)
    singles = [question for question in digits if question.part == "fsdd"]
    joined = examination.joined_questions(singles)
    noisy = examination.in_noise(root, digits + joined, clips)
    others = examination.other_questions(root, clips)
    settings = Settings(model=str(model))
    serving = await load_serving(settings, str(model), Metrics())
    timed = TranscriptionParams(language="en", vad=Vad.OFF)  # the model is examined, not a detector
    plain = replace(timed, without_timestamps=True)
    try:
        scores: Scores = {}
        for name, params in (("timestamps", timed), ("without timestamps", plain)):
            clean = await answer(serving, digits, params)
            noise = await answer(serving, noisy, params)
            scores[name] = {
                "clean": score_words(digits, clean),
                "joined": score_words(joined, await answer(serving, joined, params)),
                "noise at 10 dB": score_words(noisy[: len(digits)], noise[: len(digits)]),
                "joined, noise at 10 dB": score_words(noisy[len(digits) :], noise[len(digits) :]),
                "not digits": score_silence(others, await answer(serving, others, params)),
            }
        return scores
    finally:
        await serving.engine.stop(0.0)


def main(
    root: Annotated[Path, typer.Option(help="Folder with the corpora.")],
    model: Annotated[Path, typer.Option(help="Model folder.")],
    to: Annotated[Path, typer.Option(help="JSON file for the figures.")],
) -> None:
    """Score MODEL on the test part; a few minutes on two cores."""
    scores = asyncio.run(examine(root, model))
    to.write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
    for mode, parts in scores.items():
        for part, groups in parts.items():
            print(mode, "|", part, "|", groups["all"])


if __name__ == "__main__":
    typer.run(main)
