"""Reads on the host what the sampler drew on the device. Knows nothing about models or caches."""

from __future__ import annotations

from collections.abc import Sequence

from service.decoding.beam import candidates
from service.decoding.hypotheses import Candidates, kept_beams
from service.engine.types import Group, Sampled


def read_draw(
    values: list[float], group: Group, no_speech_prob: float | None
) -> list[Sampled | Candidates]:
    """Return what `Draw.packed` of a group says, sequence by sequence."""
    if group.is_beam:
        n = len(values) // group.n_windows
        return [candidates(values[at : at + n], no_speech_prob) for at in range(0, len(values), n)]
    rows = [
        (int(values[at]), values[at + 1], bool(values[at + 2])) for at in range(0, len(values), 3)
    ]
    if group.width == 1:
        return [Sampled(*row, no_speech_prob) for row in rows]
    found: list[Sampled | Candidates] = []
    for at in range(0, len(rows), group.width):
        tokens, logprobs, failed = zip(*rows[at : at + group.width], strict=True)
        own = tuple(range(group.width))
        found.append(Candidates(tokens, logprobs, own, (), any(failed), no_speech_prob))
    return found


def continued_rows(
    group: Group, drawn: Sequence[Sampled | Candidates], eot: int
) -> tuple[list[int], list[int]]:
    """Return which rows' keys the beams of a group go on from: sources and targets.

    Beams that go on from themselves are left out.
    """
    sources, targets = [], []
    for n, outcome in enumerate(drawn):
        if not group.is_beam or not isinstance(outcome, Candidates) or outcome.failed:
            continue
        row = group.row + n * group.width
        for beam, candidate in enumerate(kept_beams(outcome, group.width, eot)):
            source = outcome.sources[candidate]
            if source != beam:
                sources.append(row + source)
                targets.append(row + beam)
    return sources, targets
