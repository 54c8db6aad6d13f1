"""Whether a transcription can be done as asked. Knows nothing about HTTP or engines.

Contradictions are refused by name: an option that does nothing would be believed to have done
something.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from service.errors import InvalidRequest
from service.text.languages import LANGUAGES, language_code
from service.transcription.params import (
    TASKS,
    Chunking,
    ModelFacts,
    TranscriptionParams,
    Vad,
)

if TYPE_CHECKING:
    from service.text.tokenizer import WhisperTokenizer

MAX_TEMPERATURES = 10
MAX_CLIPS = 1000
HIGHEST_TEMPERATURE = 1.0


def check(
    params: TranscriptionParams, tokenizer: WhisperTokenizer, facts: ModelFacts
) -> TranscriptionParams:
    """Return the params as they will be done: languages as codes, nothing left open.

    Raises:
        InvalidRequest: for what the model does not have, what is out of range, and what
            contradicts itself; names the field, the limit and the value.
    """
    if params.task not in TASKS:
        raise InvalidRequest(
            f"task is {params.task!r}, possible are: {', '.join(TASKS)}", param="task"
        )
    _check_temperatures(params)
    _check_search(params, facts)
    _check_prompts(params)
    _check_clips(params.clip_timestamps)
    _check_words(params)
    _check_chunking(params)
    return _with_chunking(_with_languages(params, tokenizer))


# ---------------------------------------------------------------------- languages


def _with_languages(
    params: TranscriptionParams, tokenizer: WhisperTokenizer
) -> TranscriptionParams:
    if params.language is not None:
        for name, given in (
            ("languages", params.languages),
            ("detect_language_per_window", params.detect_language_per_window),
        ):
            if given:
                raise InvalidRequest(
                    f"language {params.language[:40]!r} says what is spoken, and {name} asks for"
                    " it to be detected: give one of them",
                    param=name,
                )
    language = None if params.language is None else _known("language", params.language)
    languages = tuple(dict.fromkeys(_known("languages", each) for each in params.languages))
    if tokenizer.is_multilingual:
        for name, codes in (("language", [language] if language else []), ("languages", languages)):
            _check_available(name, codes, tokenizer)
        if len(languages) == 1:
            return replace(params, language=languages[0], languages=())
        return replace(params, language=language, languages=languages)
    if set(languages) - {"en"}:
        raise InvalidRequest(
            f"this model is English only, languages are: {', '.join(languages)}", param="languages"
        )
    if params.detect_language_per_window:
        raise InvalidRequest(
            "this model is English only: there is no language to detect",
            param="detect_language_per_window",
        )
    checked = replace(params, language=language or "en", languages=())
    tokenizer.sot_sequence(checked.language, checked.task, not params.without_timestamps)
    return checked


def _check_available(name: str, codes: Sequence[str], tokenizer: WhisperTokenizer) -> None:
    missing = [code for code in codes if code not in tokenizer.languages]
    if missing:
        raise InvalidRequest(
            f"this model has no language {missing[0]!r}, it has: {', '.join(tokenizer.languages)}",
            param=name,
        )


def _known(name: str, language: str) -> str:
    code = language_code(language)
    if code is None:
        raise InvalidRequest(
            f"language {language[:40]!r} is not known, possible are: {', '.join(LANGUAGES)}",
            param=name,
        )
    return code


# ---------------------------------------------------------------------- decoding


def _check_temperatures(params: TranscriptionParams) -> None:
    temperatures = params.temperatures
    if not 1 <= len(temperatures) <= MAX_TEMPERATURES:
        raise InvalidRequest(
            f"temperature has {len(temperatures)} values, possible are 1 to {MAX_TEMPERATURES}",
            param="temperature",
        )
    for temperature in temperatures:
        if not 0 <= temperature <= HIGHEST_TEMPERATURE:
            raise InvalidRequest(
                f"temperature is {temperature:g}, possible is 0 to {HIGHEST_TEMPERATURE:g}",
                param="temperature",
            )
    if list(temperatures) != sorted(set(temperatures)):
        shown = ", ".join(f"{temperature:g}" for temperature in temperatures)
        raise InvalidRequest(
            f"temperature is {shown}: each has to be higher than the one before it",
            param="temperature",
        )


def _check_search(params: TranscriptionParams, facts: ModelFacts) -> None:
    """Refuse a search that no temperature of the request would do."""
    for name, width in (("beam_size", params.beam_size), ("best_of", params.best_of)):
        if width is not None and not 1 <= width <= facts.max_hypotheses:
            raise InvalidRequest(
                f"{name} is {width}, possible is 1 to {facts.max_hypotheses}", param=name
            )
    temperatures = params.temperatures
    shown = ", ".join(f"{temperature:g}" for temperature in temperatures)
    if params.beam_size is not None and temperatures[0] > 0:
        raise InvalidRequest(
            f"beam_size needs temperature 0, and temperature is {shown}", param="beam_size"
        )
    if params.best_of is not None and temperatures[-1] == 0:
        raise InvalidRequest(
            f"best_of needs a temperature over 0, and temperature is {shown}", param="best_of"
        )
    if params.patience is not None:
        if params.beam_size is None:
            raise InvalidRequest("patience needs a beam_size", param="patience")
        if not 0 < params.patience <= 10 or round(params.beam_size * params.patience) < 1:
            raise InvalidRequest(
                f"patience is {params.patience:g}: it has to leave at least one of beam_size="
                f"{params.beam_size} hypotheses, and be 10 at most",
                param="patience",
            )
    if params.length_penalty is not None and not 0 <= params.length_penalty <= 1:
        raise InvalidRequest(
            f"length_penalty is {params.length_penalty:g}, possible is 0 to 1",
            param="length_penalty",
        )


# ---------------------------------------------------------------------- the rest


def _check_prompts(params: TranscriptionParams) -> None:
    if params.carry_initial_prompt and not (params.initial_prompt or "").strip():
        raise InvalidRequest(
            "carry_initial_prompt needs an initial_prompt", param="carry_initial_prompt"
        )


def _check_clips(clips: Sequence[float]) -> None:
    if len(clips) > 2 * MAX_CLIPS:
        raise InvalidRequest(
            f"clip_timestamps has {len(clips)} times, possible are {2 * MAX_CLIPS}",
            param="clip_timestamps",
        )
    before = 0.0
    for seconds in clips:
        if not math.isfinite(seconds) or seconds < before:
            raise InvalidRequest(
                f"clip_timestamps has {seconds:g} after {before:g}: times may not fall",
                param="clip_timestamps",
            )
        before = seconds


def _check_words(params: TranscriptionParams) -> None:
    if params.word_timestamps and params.without_timestamps:
        raise InvalidRequest(
            "word_timestamps and without_timestamps contradict each other: words are placed by"
            " their segments",
            param="word_timestamps",
        )
    silence_s = params.hallucination_silence_threshold
    if silence_s is None:
        return
    if not params.word_timestamps:
        raise InvalidRequest(
            "hallucination_silence_threshold needs word_timestamps: it goes by the words' times",
            param="hallucination_silence_threshold",
        )
    if not (math.isfinite(silence_s) and silence_s >= 0):
        raise InvalidRequest(
            f"hallucination_silence_threshold is {silence_s:g}: it has to be 0 s or more",
            param="hallucination_silence_threshold",
        )


def _check_chunking(params: TranscriptionParams) -> None:
    if params.chunking is not Chunking.PARALLEL:
        return
    if params.condition_on_previous_text:
        raise InvalidRequest(
            "chunking=parallel and condition_on_previous_text contradict each other: windows that"
            " are decoded side by side do not know each other's text",
            param="condition_on_previous_text",
        )
    if params.vad is Vad.OFF:
        raise InvalidRequest(
            "chunking=parallel and vad=off contradict each other: the pauses to cut at are found by"
            " voice activity detection",
            param="vad",
        )


def _with_chunking(params: TranscriptionParams) -> TranscriptionParams:
    """Return the params with what their chunking leaves no choice of."""
    parallel = params.chunking is Chunking.PARALLEL
    conditions = params.condition_on_previous_text
    return replace(
        params,
        condition_on_previous_text=not parallel if conditions is None else conditions,
        vad=Vad.ON if parallel else params.vad,
    )
