"""Opens transcriptions for one model. Knows nothing about HTTP or about windows.

The file's log maximum is computed by a callable that the composition root injects, so that nothing
here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from service.audio.vad import Span, SpeechMap, SpeechModels
from service.errors import InvalidRequest
from service.transcription.checks import check
from service.transcription.params import Chunking, ModelFacts, TranscriptionParams
from service.transcription.transcription import Transcription
from service.transcription.worker import Worker

if TYPE_CHECKING:
    from service.engine.engine import Session
    from service.text.tokenizer import WhisperTokenizer

__all__ = ["Transcriber", "Transcription"]

LogMaximum = Callable[[NDArray[np.float32]], float]


class Transcriber:
    """Opens transcriptions for one model. Holds nothing of any request.

    Args:
        facts: what to know about the model.
        tokenizer: of the model.
        log_maximum: log10 of the largest mel power of a recording.
        speech_models: to detect voice activity with; None if there are none.
    """

    def __init__(
        self,
        facts: ModelFacts,
        tokenizer: WhisperTokenizer,
        log_maximum: LogMaximum,
        speech_models: SpeechModels | None = None,
    ) -> None:
        self.facts = facts
        self.speech_models = speech_models
        self.tokenizer = tokenizer
        self._log_maximum = log_maximum
        self._listening = Worker("listening")

    def check(self, params: TranscriptionParams) -> TranscriptionParams:
        """Return the params as this model can do them.

        Raises:
            InvalidRequest: if it cannot; names the field and what is possible.
        """
        if params.chunking is Chunking.PARALLEL and self.speech_models is None:
            raise InvalidRequest(
                "chunking=parallel cuts at pauses, and this service has no voice activity"
                " detection that would find them",
                param="chunking",
            )
        return check(params, self.tokenizer, self.facts)

    def open(
        self,
        waveform: NDArray[np.float32],
        params: TranscriptionParams,
        session: Session,
        *,
        request_id: str,
        arrived_at: float | None = None,
    ) -> Transcription:
        """Return the transcription of one recording, not begun yet.

        Args:
            waveform: f32[samples], 16 kHz mono, at least one sample.
            params: how.
            session: the request's permit; the transcription's `close` closes it.
            request_id: the id in the events.
            arrived_at: `time.perf_counter()` when the request came; now by default.

        Raises:
            InvalidRequest: if the model cannot do this.
        """
        return Transcription(self, waveform, self.check(params), session, request_id, arrived_at)

    async def log_maximum(self, waveform: NDArray[np.float32]) -> float:
        """Return log10 of the largest mel power of the recording, off the event loop."""
        return await self._listening.run(self._log_maximum, waveform)

    async def spans(self, speech: SpeechMap, start_s: float, end_s: float) -> list[Span]:
        """Return where a recording has speech, off the event loop."""
        return await self._listening.run(speech.spans, start_s, end_s)

    async def quietest(self, speech: SpeechMap, start_s: float, end_s: float) -> float:
        """Return when there is least speech, off the event loop."""
        return await self._listening.run(speech.quietest, start_s, end_s)
