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

    def add(self, other: Tally) -> None:
        """Count what another has compared too."""
        self.checkpoints += other.checkpoints
        self.cases += other.cases
        self.tokens += other.tokens
        self.ties += other.ties


TALLIES = {"greedy decoding": Tally(), "decode()": Tally(), "transcribe()": Tally()}
