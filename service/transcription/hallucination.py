"""Segments that seem made up, told by their words. Pure arithmetic.

As openai/whisper `transcribe()` with `hallucination_silence_threshold`: words that are very short,
very long or improbable are anomalies, and a segment of them between silences is skipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from service.audio.windows import FRAMES_PER_SECOND, Window
from service.decoding.words import APPENDED, PREPENDED, Word
from service.transcription.window import Draft, WindowResult

_PUNCTUATION = PREPENDED + APPENDED
_N_WORDS = 8
_EDGE_S = 2.0
"""What begins or ends this near to a window's edge counts as beside a silence."""


def end_of(drafts: Sequence[Draft]) -> float | None:
    """Return when the last word ends, the last segment where there are no words."""
    for draft in reversed(drafts):
        if draft.words:
            return draft.words[-1].end_s
    return drafts[-1].end_s if drafts else None


def without_hallucinations(
    window: Window, result: WindowResult, silence_s: float, *, last_speech_s: float, n_frames: int
) -> WindowResult:
    """Return what is left of a window, and where to go on.

    Args:
        window: where it lies.
        result: with words.
        silence_s: pauses longer than this are silence.
        last_speech_s: when the last word before the window ends.
        n_frames: of the recording.
    """
    result = replace(result, seek_frame=_seek(window, result, silence_s))
    first = next((draft for draft in result.drafts if draft.words), None)
    if first is not None and _is_anomaly(first):
        gap_s = first.start_s - window.start_s
        if gap_s > silence_s:
            seek = window.start_frame + round(gap_s * FRAMES_PER_SECOND)
            return replace(result.cut(0, seek), is_told=False)
    before_s = last_speech_s
    for place, draft in enumerate(result.drafts):
        if not draft.words:
            continue
        if _is_anomaly(draft):
            after = next((d for d in result.drafts[place + 1 :] if d.words), None)
            if _stands_alone(window, draft, after, before_s, silence_s):
                seek = round(max(window.start_s + 1, draft.start_s) * FRAMES_PER_SECOND)
                ends_clip = n_frames / FRAMES_PER_SECOND - draft.end_s < silence_s
                return replace(result.cut(place, seek), ends_clip=ends_clip)
        before_s = draft.end_s
    return result


def _seek(window: Window, result: WindowResult, silence_s: float) -> int:
    """Go on after the last word if silence follows it, else at the end of the window."""
    end_s = end_of(result.drafts)
    if result.single_timestamp or end_s is None or end_s <= window.start_s:
        return result.seek_frame
    # The reference measures to the end of a whole window, also where the recording ends before.
    if window.longest_end_s - end_s > silence_s:
        return round(end_s * FRAMES_PER_SECOND)
    return window.end_frame


def _stands_alone(
    window: Window, draft: Draft, after: Draft | None, before_s: float, silence_s: float
) -> bool:
    """Whether there is silence, or nothing better, on both sides of a segment."""
    next_s = window.end_frame / FRAMES_PER_SECOND
    if after is not None and after.words:
        next_s = after.words[0].start_s
    silence_before = (
        draft.start_s - before_s > silence_s
        or draft.start_s < silence_s
        or draft.start_s - window.start_s < _EDGE_S
    )
    silence_after = (
        next_s - draft.end_s > silence_s
        or (after is not None and _is_anomaly(after))
        or window.longest_end_s - draft.end_s < _EDGE_S
    )
    return silence_before and silence_after


def _is_anomaly(draft: Draft) -> bool:
    words = [word for word in draft.words or () if word.text not in _PUNCTUATION][:_N_WORDS]
    score = sum(map(_score, words))
    return score >= 3 or score + 0.01 >= len(words)


def _score(word: Word) -> float:
    duration_s = word.end_s - word.start_s
    score = 1.0 if word.probability < 0.15 else 0.0
    if duration_s < 0.133:
        score += (0.133 - duration_s) * 15
    if duration_s > 2.0:
        score += duration_s - 2.0
    return score
