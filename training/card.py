"""Writes the model card from the figures of an evaluation, so that none is copied by hand.

python -m training.card --evaluation evaluation.json --to service/builtin/README.md
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

TEMPLATE = Path(__file__).with_name("card.md")
MODE = "timestamps"
PLAIN = "without timestamps"
DIGIT_PARTS = ("clean", "joined", "noise at 10 dB", "joined, noise at 10 dB")


def summary(scores: dict[str, Any]) -> str:
    """Return the table of overall figures, both ways of decoding."""
    rows = ["| test | clips | words | with timestamps | without |", "|---|---|---|---|---|"]
    for part in DIGIT_PARTS:
        timed, plain = scores[MODE][part]["all"], scores[PLAIN][part]["all"]
        rows.append(
            f"| {part} | {timed['clips']} | {timed['words']} | {timed['wer']:.1%} "
            f"| {plain['wer']:.1%} |"
        )
    return "\n".join(rows)


def by_group(scores: dict[str, Any]) -> str:
    """Return word error rates by corpus and by speaker, clean and in noise."""
    clean, noisy = scores[MODE]["clean"], scores[MODE]["noise at 10 dB"]
    rows = [
        "| who | words | WER | substituted, left out, added | WER at 10 dB |",
        "|---|---|---|---|---|",
    ]
    for name, found in clean.items():
        kinds = f"{found['substitutions']}, {found['deletions']}, {found['insertions']}"
        rows.append(
            f"| {name} | {found['words']} | {found['wer']:.1%} | {kinds} "
            f"| {noisy[name]['wer']:.1%} |"
        )
    return "\n".join(rows)


def silence(scores: dict[str, Any]) -> str:
    """Return how often something was heard where nothing was said."""
    timed, plain = scores[MODE]["not digits"], scores[PLAIN]["not digits"]
    rows = ["| kind | clips | with timestamps | without |", "|---|---|---|---|"]
    for name, found in timed.items():
        rows.append(
            f"| {name} | {found['clips']} | {found['false']} ({found['rate']:.1%}) "
            f"| {plain[name]['false']} ({plain[name]['rate']:.1%}) |"
        )
    return "\n".join(rows)


def main(
    evaluation: Annotated[Path, typer.Option(help="What training.evaluate wrote.")],
    to: Annotated[Path, typer.Option(help="The model card.")],
) -> None:
    """Fill the figures into training/card.md."""
    scores = json.loads(evaluation.read_text(encoding="utf-8"))
    card = TEMPLATE.read_text(encoding="utf-8")
    for name, table in (("summary", summary), ("groups", by_group), ("silence", silence)):
        card = card.replace(f"<!-- {name} -->", table(scores))
    to.write_text(card, encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
