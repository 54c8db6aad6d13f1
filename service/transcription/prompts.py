"""What stands before the tokens of a window, and how it is decoded. No torch, no HTTP.

The text before a window is that of openai/whisper `transcribe()`; hot words stand first, as
faster-whisper puts them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from service.decoding.params import AlignParams, NoiseKey, SequenceParams
from service.transcription.params import ModelFacts, TranscriptionParams

if TYPE_CHECKING:
    from service.text.tokenizer import WhisperTokenizer


class PreviousText:
    """What a window is told of the text before it.

    Args:
        params: as `check` returned them.
        tokenizer, facts: of the model.
    """

    def __init__(
        self, params: TranscriptionParams, tokenizer: WhisperTokenizer, facts: ModelFacts
    ) -> None:
        self._longest = facts.n_text_ctx // 2 - 1
        self._conditions = bool(params.condition_on_previous_text)
        self._carries = params.carry_initial_prompt
        self._hot = _encoded(tokenizer, params.hotwords)[: self._longest]
        self._initial = _encoded(tokenizer, params.initial_prompt)[-self._longest :]
        self._said = [] if self._carries else list(self._initial)

    def tokens(self) -> tuple[int, ...]:
        """Return the tokens for the next window: hot words, a carried prompt, the latest text.

        At most half of the decoder's positions; what is oldest in the text makes room.
        """
        carried = self._initial if self._carries else []
        room = self._longest - len(self._hot)
        fixed = carried[len(carried) - min(room, len(carried)) :]
        room -= len(fixed)
        return (*self._hot, *fixed, *(self._said[-room:] if room else ()))

    def add(self, tokens: Sequence[int], temperature: float) -> None:
        """Note the tokens that a window came to.

        A window that took a high temperature tells the next one nothing: it may be made up.
        """
        if self._conditions and temperature <= _HIGH_TEMPERATURE:
            self._said = [*self._said, *tokens][-self._longest :]
        else:
            self._said = []


_HIGH_TEMPERATURE = 0.5


def _encoded(tokenizer: WhisperTokenizer, text: str | None) -> list[int]:
    if text is None or not text.strip():
        return []
    return tokenizer.encode(" " + text.strip())


class SequencePlan:
    """Turns checked params into what the engine needs for each attempt at a window.

    Args:
        params: as `check` returned them.
        tokenizer, facts: of the model.
    """

    def __init__(
        self, params: TranscriptionParams, tokenizer: WhisperTokenizer, facts: ModelFacts
    ) -> None:
        self._params = params
        self._tokenizer = tokenizer
        self._facts = facts

    def transcribe(
        self,
        language: str | None,
        window: int,
        previous: Sequence[int] = (),
        *,
        temperature: float = 0.0,
        attempt: int = 0,
    ) -> SequenceParams:
        """Return how to decode a window.

        Args:
            language: a code that the model has; None if it has none.
            window: its index.
            previous: tokens of the text before it.
            temperature: of this attempt.
            attempt: its number; each has noise of its own.
        """
        facts, params = self._facts, self._params
        timestamps = not params.without_timestamps
        before = (self._tokenizer.sot_prev, *previous) if previous else ()
        prompt = before + self._tokenizer.sot_sequence(language, params.task, timestamps)
        samples = temperature > 0
        return SequenceParams(
            prompt=prompt,
            sot_index=len(before),
            # The last token needs no position: nothing is decoded after it.
            max_tokens=max(1, min(facts.n_text_ctx // 2, facts.n_text_ctx - len(prompt) + 1)),
            temperature=temperature,
            noise=NoiseKey(seed=params.seed, window=window, attempt=attempt),
            timestamps=timestamps,
            suppress_blank=self._tokenizer.eot in facts.begin_suppress_tokens,
            suppress_tokens=facts.suppress_tokens,
            max_initial_timestamp_index=facts.max_initial_timestamp_index,
            beam_size=None if samples else params.beam_size,
            best_of=params.best_of if samples else None,
            patience=None if samples else params.patience,
            length_penalty=params.length_penalty,
        )

    def align(self, language: str | None, tokens: Sequence[int], n_frames: int) -> AlignParams:
        """Return how to align a window's text tokens with its `n_frames` of audio."""
        sot = self._tokenizer.sot_sequence(language, self._params.task, timestamps=False)
        return AlignParams(prompt=sot, tokens=tuple(tokens), n_frames=n_frames)
