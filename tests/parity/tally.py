"""What the tests of this folder have compared, in all."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Tally:
    """What has been compared so far: a divergence that a tie excuses ends its case."""

    checkpoints: int = 0
    cases: int = 0
    tokens: int = 0
    ties: int = 0


TALLIES = {"greedy decoding": Tally(), "decode()": Tally(), "transcribe()": Tally()}
