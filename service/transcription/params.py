"""What a request asks of a transcription, and what the model gives to it. No HTTP, no torch."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from service.audio.vad import SpeechBounds
from service.decoding.quality import Thresholds
from service.decoding.words import APPENDED, PREPENDED

TASKS = ("transcribe", "translate")
LADDER = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""openai/whisper's temperatures: the next one is for a window that failed at this one."""


class Vad(enum.StrEnum):
    """Whether voice activity is detected.

    ON: everywhere, before anything is decoded; silence never is.
    AUTO: where a decoding gives reason to doubt it.
    """

    OFF = "off"
    ON = "on"
    AUTO = "auto"


class Chunking(enum.StrEnum):
    """How windows follow one another.

    SEQUENTIAL: each begins where the text of the one before it ends, and knows that text.
    PARALLEL: the recording is cut at pauses, and several windows are decoded side by side.
    """

    SEQUENTIAL = "sequential"
    PARALLEL = "parallel"


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
        max_hypotheses: rows that one window may take, which bounds `beam_size` and `best_of`.
    """

    name: str
    n_vocab: int
    n_text_ctx: int
    max_frames: int
    suppress_tokens: tuple[int, ...]
    begin_suppress_tokens: tuple[int, ...]
    max_initial_timestamp_index: int | None
    max_hypotheses: int = 16


@dataclass(frozen=True, slots=True)
class TranscriptionParams:
    """How to transcribe one recording, with openai/whisper's names where it has one.

    Attributes:
        language: code, English name or alias; None to detect it.
        task: "transcribe", or "translate" into English.
        temperature: 0 for the most likely token each time, otherwise sampling; several are tried
            in turn, each where the one before failed.
        seed: of the sampling; the same seed gives the same transcript.
        without_timestamps: decode text only; windows of 30 s follow one another.
        initial_prompt: text that might have come before the first window.
        languages: codes of which the language is one; () for any.
        detect_language_per_window: whether each window has a language of its own (code switching).
        condition_on_previous_text: whether a window is told the text before it; None for yes,
            unless windows are decoded side by side.
        carry_initial_prompt: whether the initial prompt stands before every window.
        hotwords: words to expect, told to every window.
        clip_timestamps: start, end, start, end ... in seconds of what is transcribed; a last end
            that is missing is the recording's. () for everything.
        compression_ratio_threshold, logprob_threshold, no_speech_threshold: see `Thresholds`.
        beam_size, patience: of the beam search at temperature 0.
        best_of: candidates at a temperature above 0.
        length_penalty: by which hypotheses are ranked.
        word_timestamps: whether segments have words with times.
        prepend_punctuations, append_punctuations: joined to the next word, to the one before.
        hallucination_silence_threshold: seconds of silence around what seems made up, from which
            on it is skipped; None for never.
        vad: whether voice activity is detected.
        speech_bounds: what counts as such.
        chunking: how windows follow one another.
    """

    language: str | None = None
    task: str = "transcribe"
    temperature: float | tuple[float, ...] = LADDER
    seed: int = 0
    without_timestamps: bool = False
    initial_prompt: str | None = None
    languages: tuple[str, ...] = ()
    detect_language_per_window: bool = False
    condition_on_previous_text: bool | None = None
    carry_initial_prompt: bool = False
    hotwords: str | None = None
    clip_timestamps: tuple[float, ...] = ()
    compression_ratio_threshold: float | None = 2.4
    logprob_threshold: float | None = -1.0
    no_speech_threshold: float | None = 0.6
    beam_size: int | None = None
    patience: float | None = None
    best_of: int | None = None
    length_penalty: float | None = None
    word_timestamps: bool = False
    prepend_punctuations: str = PREPENDED
    append_punctuations: str = APPENDED
    hallucination_silence_threshold: float | None = None
    vad: Vad = Vad.AUTO
    speech_bounds: SpeechBounds = field(default_factory=SpeechBounds)
    chunking: Chunking = Chunking.SEQUENTIAL

    @property
    def temperatures(self) -> tuple[float, ...]:
        """The temperatures to try, in turn."""
        given = self.temperature
        return given if isinstance(given, tuple) else (given,)

    @property
    def n_hypotheses(self) -> int:
        """Decoder rows that a window takes, at most."""
        return max(self.beam_size or 1, self.best_of or 1)

    @property
    def thresholds(self) -> Thresholds:
        """By what a decoding is measured."""
        return Thresholds(
            self.compression_ratio_threshold, self.logprob_threshold, self.no_speech_threshold
        )
