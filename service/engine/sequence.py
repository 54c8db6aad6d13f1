"""What the scheduler keeps of a window and of what is done with it. Touched by one thread only.

Knows nothing about places, queues or torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

from service.decoding.hypotheses import Candidates, Hypotheses, hypotheses_of
from service.decoding.params import AlignParams, SequenceParams
from service.decoding.words import Alignment
from service.engine.types import (
    Answer,
    Finish,
    LanguageProbabilities,
    Sampled,
    Step,
    Task,
    TokenStep,
    WindowInput,
    n_rows_of,
)
from service.errors import DecodingFailed, ServiceError

Outcome = Sampled | Candidates | LanguageProbabilities | Alignment | ServiceError | None
"""What a step brought one sequence; None if the model's output was not a number."""


@dataclass(slots=True, eq=False)
class Window:
    """A leased window: it keeps its slot from its first sequence's start until it is closed.

    Attributes:
        id: the owner's name for it.
        input: its audio; without samples once it is encoded.
        rank: how many windows its request has had before it.
        turn: its place in the queue, the lowest first; from its first sequence on.
        slot: its cross slot, None while it waits.
        encoded: whether the slot holds its keys and values.
        sequence: the sequence on it that waits or runs, if any.
    """

    id: int
    input: WindowInput
    rank: int = 0
    turn: int | None = None
    slot: int | None = None
    encoded: bool = False
    sequence: Sequence | None = None


@dataclass(slots=True, eq=False)
class Sequence:
    """One window being decoded once, or looked at in another way.

    Attributes:
        id: the owner's name for it.
        window: what it decodes.
        task: how.
        row: the first of its decoder rows, None while it waits.
        n_rows: how many it takes, one a hypothesis.
        kind: what may run in one group: its width, and whether that is of beams.
        n_sampled: tokens drawn so far, for each hypothesis.
    """

    id: int
    window: Window = field(repr=False)
    task: Task
    row: int | None = None
    n_rows: int = field(init=False)
    kind: tuple[int, bool] = field(init=False, repr=False)
    n_sampled: int = 0
    _hypotheses: Hypotheses | None = field(init=False, repr=False, default=None)
    _no_speech_prob: float | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        self.n_rows = n_rows_of(self.task)
        is_beam = isinstance(self.task, SequenceParams) and self.task.is_beam
        self.kind = (self.n_rows, is_beam)

    @property
    def only_aligns(self) -> bool:
        """Whether it aligns a text with a window that is encoded already."""
        return isinstance(self.task, AlignParams) and self.window.encoded

    def take(self, outcome: Outcome, eot: int, n_text_ctx: int) -> list[Step]:
        """Note what a step brought -> what the owner sees of it; the last step has a `finish`."""
        if outcome is None or (isinstance(outcome, Sampled | Candidates) and outcome.failed):
            outcome = DecodingFailed("the model's output for this window is not a number")
        if isinstance(outcome, ServiceError):
            return [TokenStep(-1, float("nan"), finish=Finish.ERROR, error=outcome)]
        if not isinstance(outcome, Sampled | Candidates):
            return [Answer(outcome)]
        self.n_sampled += 1
        is_last = self._is_full(n_text_ctx)
        if isinstance(outcome, Candidates):
            return self._take_candidates(outcome, is_last, eot)
        finish = Finish.LENGTH if is_last else None
        if outcome.token_id == eot:
            finish = Finish.EOT
        return [TokenStep(outcome.token_id, outcome.logprob, outcome.no_speech_prob, finish)]

    def _is_full(self, n_text_ctx: int) -> bool:
        """Whether no more may be drawn, or the decoder has no position for it."""
        params = cast("SequenceParams", self.task)
        n_tokens = len(params.prompt) + self.n_sampled
        return self.n_sampled == params.max_tokens or n_tokens > n_text_ctx

    def _take_candidates(self, outcome: Candidates, is_last: bool, eot: int) -> list[Step]:
        """Note a step of several hypotheses: the best is told when it is known."""
        if self._hypotheses is None:
            self._hypotheses = hypotheses_of(cast("SequenceParams", self.task), eot)
            self._no_speech_prob = outcome.no_speech_prob
        self._hypotheses.push(outcome)
        if not (is_last or self._hypotheses.is_complete):
            return []
        best = self._hypotheses.best()
        last = len(best.tokens) - 1
        finish = Finish.EOT if best.has_ended else Finish.LENGTH
        return [
            TokenStep(
                token,
                logprob,
                self._no_speech_prob if at == 0 else None,
                finish if at == last else None,
            )
            for at, (token, logprob) in enumerate(zip(best.tokens, best.logprobs, strict=True))
        ]
