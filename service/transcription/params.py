"""What a request asks of a transcription, and what the model gives to it. No HTTP, no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from service.decoding.params import NoiseKey, SequenceParams
from service.errors import InvalidRequest
from service.text.languages import LANGUAGES, language_code

if TYPE_CHECKING:
    from service.text.tokenizer import WhisperTokenizer

TASKS = ("transcribe", "translate")


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a transcription needs to know about the model that is served.

    Attributes:
        name: as it is called in events.
        n_vocab: width of its logits.
        n_text_ctx: decoder positions.
        max_frames: mel frames of its longest window.
        suppress_tokens: never sampled.
        begin_suppress_tokens: not sampled first; only whether end-of-text is among them counts,
            and then a window begins with neither that nor a blank, as in the reference.
        max_initial_timestamp_index: the latest first timestamp in steps of 0.02 s, None for none.
    """

    name: str
    n_vocab: int
    n_text_ctx: int
    max_frames: int
    suppress_tokens: tuple[int, ...]
    begin_suppress_tokens: tuple[int, ...]
    max_initial_timestamp_index: int | None


@dataclass(frozen=True, slots=True)
class TranscriptionParams:
    """How to transcribe one recording, with openai/whisper's names where it has one.

    Attributes:
        language: code, English name or alias; None to detect it.
        task: "transcribe", or "translate" into English.
        temperature: 0 for the most likely token each time, otherwise sampling.
        seed: of the sampling; the same seed gives the same transcript.
        without_timestamps: decode text only; windows of 30 s follow one another.
        initial_prompt: text that might have come before the first window.
    """

    language: str | None = None
    task: str = "transcribe"
    temperature: float = 0.0
    seed: int = 0
    without_timestamps: bool = False
    initial_prompt: str | None = None


def check(params: TranscriptionParams, tokenizer: WhisperTokenizer) -> TranscriptionParams:
    """Return the params with the language as its code, known to be possible with this model.

    Raises:
        InvalidRequest: for a language or a task that the model does not have.
    """
    if params.task not in TASKS:
        raise InvalidRequest(
            f"task is {params.task!r}, possible are: {', '.join(TASKS)}", param="task"
        )
    language = None if params.language is None else _known_language(params.language)
    if tokenizer.is_multilingual:
        if language is not None and language not in tokenizer.languages:
            raise InvalidRequest(
                f"this model has no language {params.language!r}, it has:"
                f" {', '.join(tokenizer.languages)}",
                param="language",
            )
        return replace(params, language=language)
    checked = replace(params, language=language or "en")
    tokenizer.sot_sequence(checked.language, checked.task, not params.without_timestamps)
    return checked


def _known_language(language: str) -> str:
    code = language_code(language)
    if code is None:
        raise InvalidRequest(
            f"language {language[:40]!r} is not known, possible are: {', '.join(LANGUAGES)}",
            param="language",
        )
    return code


class SequencePlan:
    """Turns checked params into what the engine needs for each window.

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

    def transcribe(self, language: str | None, window: int) -> SequenceParams:
        """Return how to decode a window.

        Args:
            language: a code that the model has; None if it has none.
            window: its index.
        """
        facts, params = self._facts, self._params
        timestamps = not params.without_timestamps
        previous = self._previous_text() if window == 0 else ()
        prompt = previous + self._tokenizer.sot_sequence(language, params.task, timestamps)
        return SequenceParams(
            prompt=prompt,
            sot_index=len(previous),
            max_tokens=min(facts.n_text_ctx // 2, facts.n_text_ctx - len(prompt)),
            temperature=params.temperature,
            noise=NoiseKey(seed=params.seed, window=window),
            timestamps=timestamps,
            suppress_blank=self._tokenizer.eot in facts.begin_suppress_tokens,
            suppress_tokens=facts.suppress_tokens,
            max_initial_timestamp_index=facts.max_initial_timestamp_index,
        )

    def _previous_text(self) -> tuple[int, ...]:
        """Return the initial prompt's tokens, its end if it is long."""
        if not self._params.initial_prompt or not self._params.initial_prompt.strip():
            return ()
        tokens = self._tokenizer.encode(" " + self._params.initial_prompt.strip())
        longest = self._facts.n_text_ctx // 2 - 1
        return (self._tokenizer.sot_prev, *tokens[-longest:])


def detect_language(tokenizer: WhisperTokenizer, facts: ModelFacts) -> SequenceParams:
    """Return how to sample the language token: one step in which nothing else is possible."""
    languages = set(tokenizer.languages.values())
    return SequenceParams(
        prompt=(tokenizer.sot,),
        sot_index=0,
        max_tokens=1,
        timestamps=False,
        suppress_blank=False,
        suppress_tokens=tuple(i for i in range(facts.n_vocab) if i not in languages),
    )
