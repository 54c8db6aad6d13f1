"""A transcription as OpenAI tells it: one JSON object, or a stream of deltas. No HTTP.

Deltas cannot be taken back, so they are released as the text becomes final; joined, they are the
text of the last event.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from service.api.openai_options import OpenAIOptions
from service.api.sse import Dialect, encode_unnamed
from service.transcription.events import Done, Json, TokenEvent
from service.transcription.final import FinalTokens, TrimmedText
from service.transcription.params import Vad
from service.transcription.render import Format, logprob, verbose

if TYPE_CHECKING:
    from service.text.tokenizer import WhisperTokenizer
    from service.transcription.transcriber import Transcription

DIALECT = Dialect(encode_unnamed, trailer=b"data: [DONE]\n\n")


@dataclass(frozen=True, slots=True)
class TextDelta:
    """What is added to the text."""

    type: ClassVar[str] = "transcript.text.delta"

    delta: str
    logprobs: list[Json] | None

    def to_dict(self) -> Json:
        """Return the JSON object of the event; log-probabilities only if they were asked for."""
        data: Json = {"type": self.type, "delta": self.delta}
        return data if self.logprobs is None else data | {"logprobs": self.logprobs}


@dataclass(frozen=True, slots=True)
class TextDone:
    """The whole text, with what OpenAI tells of it and what we know beside that."""

    type: ClassVar[str] = "transcript.text.done"

    done: Done
    task: str
    granularities: tuple[str, ...]
    logprobs: list[Json] | None

    def to_dict(self) -> Json:
        """Return the JSON object of the event: what `json` has, and `verbose_json` beside it."""
        details = verbose(self.done, self.task, self.granularities)
        return {"type": self.type} | details | json_object(self.done, self.logprobs)


def json_object(done: Done, logprobs: list[Json] | None) -> Json:
    """Return OpenAI's `json` answer."""
    data: Json = {"text": done.text, "usage": done.usage.to_dict()}
    heard = [segment.language for segment in done.segments] or [done.language]
    if codes := [code for code in dict.fromkeys(heard) if code is not None]:
        data["languages"] = [{"code": code} for code in codes]
    return data if logprobs is None else data | {"logprobs": logprobs}


class OpenAITranscript:
    """One transcription in OpenAI's words. To be used once.

    Args:
        transcription: not begun yet.
        options: what to tell.
        task: what is done.
        tokenizer: of the model.
    """

    def __init__(
        self,
        transcription: Transcription,
        options: OpenAIOptions,
        task: str,
        tokenizer: WhisperTokenizer,
    ) -> None:
        self._transcription = transcription
        self._options = options
        self._task = task
        self._granularities = options.granularities
        self._tokenizer = tokenizer
        self._logprobs: list[Json] | None = [] if options.include else None
        params = transcription.params
        self._final = FinalTokens(
            one_attempt=len(params.temperatures) == 1
            and params.hallucination_silence_threshold is None
            and params.vad is Vad.OFF,
            timestamps=not params.without_timestamps,
            no_speech_threshold=params.thresholds.no_speech,
        )

    async def events(self) -> AsyncGenerator[TextDelta | TextDone, None]:
        """Yield a delta each time that text becomes final, and the whole in the end.

        Raises:
            ServiceError: as the transcription.
        """
        text = TrimmedText()
        told = 0
        async with aclosing(self._transcription.events()) as events:
            async for event in events:
                tokens = self._final.push(event)
                self._note(tokens)
                delta = text.push(token.text for token in tokens)
                # Tokens without text, such as parts of a character, are told with the next delta.
                logprobs = None if self._logprobs is None else self._logprobs[told:]
                if delta or (logprobs and isinstance(event, Done)):
                    told += len(logprobs or ())
                    yield TextDelta(delta, logprobs)
                if isinstance(event, Done):
                    yield TextDone(event, self._task, self._granularities, self._logprobs)

    async def result(self) -> tuple[Done, list[Json] | None]:
        """Return the transcript, and the log-probabilities of its tokens if they are wanted.

        Raises:
            ServiceError: as the transcription.
        """
        async with aclosing(self._transcription.events()) as events:
            async for event in events:
                self._note(self._final.push(event))
                if isinstance(event, Done):
                    return event, self._logprobs
        raise AssertionError("a transcription ends with Done or an error")

    def answer(self, done: Done, logprobs: list[Json] | None) -> dict[str, Any]:
        """Return the answer in one of the formats that are JSON objects."""
        if self._options.response_format is Format.VERBOSE_JSON:
            return verbose(done, self._task, self._options.granularities)
        return json_object(done, logprobs)

    def _note(self, tokens: Iterable[TokenEvent]) -> None:
        """Keep the log-probabilities of text tokens, if they are wanted."""
        if self._logprobs is not None:
            self._logprobs += [
                logprob(data.decode("utf-8", errors="replace"), data, token.logprob)
                for token in tokens
                if (data := self._tokenizer.token_bytes(token.token_id))
            ]
