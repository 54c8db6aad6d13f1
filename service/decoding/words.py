"""From aligned tokens to words with times. Pure: no torch, no engine.

The splitting and the merging of punctuation are openai/whisper's (`tokenizer.py` and `timing.py`).
Knows nothing about attention or requests.
"""

from __future__ import annotations

import statistics
import string
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.text.tokenizer import WhisperTokenizer

PREPENDED = "\"'“¿([{-"
"""Punctuation that belongs to the word after it."""
APPENDED = "\"'.。,，!！?？:：”)]}、"
"""Punctuation that belongs to the word before it."""
_UNSPACED = frozenset({"zh", "ja", "th", "lo", "my", "yue"})
"""Languages written without spaces between words: they are split into characters."""
_REPLACEMENT = "\ufffd"
_SENTENCE_ENDS = ".。!！?？"
_LONGEST_MEDIAN_S = 0.7


@dataclass(frozen=True, slots=True)
class Alignment:
    """Where the tokens of a text lie in a window.

    Attributes:
        starts_s: seconds into the window at which each token begins, and at which the last one
            ends: one more than there are tokens, in steps of 0.02 s, never falling.
        probabilities: of each token among the text tokens, given those before it.
    """

    starts_s: tuple[float, ...]
    probabilities: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a window.

    Attributes:
        text: with the space before it, and its punctuation.
        tokens: its tokens; none if it was merged into its neighbour.
        start_s, end_s: seconds into the window.
        probability: mean of its tokens'.
    """

    text: str
    tokens: tuple[int, ...]
    start_s: float
    end_s: float
    probability: float


def split_words(
    tokens: Sequence[int], tokenizer: WhisperTokenizer, language: str | None
) -> list[tuple[str, tuple[int, ...]]]:
    """Return the words of a text with the tokens of each; joined, they are the text's.

    A word is what stands between spaces. Languages without spaces are cut at every character.
    """
    characters = _split_characters(tokens, tokenizer)
    if language in _UNSPACED:
        return characters
    words: list[tuple[str, tuple[int, ...]]] = []
    for text, ids in characters:
        starts_anew = (
            ids[0] >= tokenizer.eot
            or text.startswith(" ")
            or text.strip() in string.punctuation
            or not words
        )
        if starts_anew:
            words.append((text, ids))
        else:
            words[-1] = (words[-1][0] + text, words[-1][1] + ids)
    return words


def _split_characters(
    tokens: Sequence[int], tokenizer: WhisperTokenizer
) -> list[tuple[str, tuple[int, ...]]]:
    """Return the shortest runs of tokens that are whole characters."""
    whole = tokenizer.decode(tokens)
    runs: list[tuple[str, tuple[int, ...]]] = []
    pending: list[int] = []
    at = 0
    for token in tokens:
        pending.append(token)
        text = tokenizer.decode(pending)
        broken = text.find(_REPLACEMENT)
        meant = broken >= 0 and whole[at + broken : at + broken + 1] == _REPLACEMENT
        if broken < 0 or meant:  # a character that is malformed in the text itself counts as one
            runs.append((text, tuple(pending)))
            pending = []
            at += len(text)
    if pending:
        runs.append((tokenizer.decode(pending), tuple(pending)))
    return runs


def align_words(
    tokens: Sequence[int],
    alignment: Alignment,
    tokenizer: WhisperTokenizer,
    language: str | None,
) -> list[Word]:
    """Return the words of a text with their times, punctuation still apart.

    Args:
        tokens: those that were aligned.
        alignment: what `WindowLease.align` gave.
        tokenizer: of the model.
        language: a code; it decides how words are told apart.
    """
    words = []
    at = 0
    for text, ids in split_words(tokens, tokenizer, language):
        end = at + len(ids)
        words.append(
            Word(
                text,
                ids,
                alignment.starts_s[at],
                alignment.starts_s[end],
                statistics.fmean(alignment.probabilities[at:end]),
            )
        )
        at = end
    return words


def merge_punctuation(
    words: Sequence[Word], prepended: str = PREPENDED, appended: str = APPENDED
) -> list[Word]:
    """Return the words with punctuation joined to its word; what was joined stays as an empty one.

    A joined mark gives its text and its tokens away, not its time.
    """
    merged = list(words)
    following = len(merged) - 1
    for i in range(len(merged) - 2, -1, -1):
        mark = merged[i]
        if mark.text.startswith(" ") and mark.text.strip() in prepended:
            merged[following] = _joined(merged[following], mark, merged[following])
            merged[i] = replace(mark, text="", tokens=())
        else:
            following = i
    previous = 0
    for i in range(1, len(merged)):
        mark = merged[i]
        if not merged[previous].text.endswith(" ") and mark.text in appended:
            merged[previous] = _joined(merged[previous], merged[previous], mark)
            merged[i] = replace(mark, text="", tokens=())
        else:
            previous = i
    return merged


def _joined(word: Word, first: Word, second: Word) -> Word:
    return replace(word, text=first.text + second.text, tokens=first.tokens + second.tokens)


@dataclass(frozen=True, slots=True)
class TimedSegment:
    """A segment of a window, with its words once they are known.

    Attributes:
        start_s, end_s: seconds into the recording.
        tokens: its text tokens, without timestamps.
        words: with seconds into the recording.
    """

    start_s: float
    end_s: float
    tokens: tuple[int, ...]
    words: tuple[Word, ...] = ()


def time_segments(
    segments: Sequence[TimedSegment],
    words: Sequence[Word],
    *,
    offset_s: float,
    last_speech_s: float,
    prepended: str = PREPENDED,
    appended: str = APPENDED,
) -> list[TimedSegment]:
    """Return a window's segments with their words, and with the times that the words give them.

    As openai/whisper `add_word_timestamps`: a word at the end of a sentence or after a pause is
    not longer than twice the median; where segment and word disagree by more than half a second,
    the segment is believed.

    Args:
        segments: the window's, in order; their tokens joined are those that were aligned.
        words: of `align_words`.
        offset_s: where the window begins in the recording.
        last_speech_s: where the last word before this window ends.
        prepended: punctuation that belongs to the next word.
        appended: punctuation that belongs to the word before.
    """
    durations = [word.end_s - word.start_s for word in words if word.end_s != word.start_s]
    median_s = min(_LONGEST_MEDIAN_S, statistics.median(durations)) if durations else 0.0
    if durations:
        words = _shorten_at_sentence_ends(words, 2 * median_s)
    remaining = iter(merge_punctuation(words, prepended, appended))
    timed = []
    for segment in segments:
        own: list[Word] = []
        n_saved = 0
        while n_saved < len(segment.tokens) and (word := next(remaining, None)) is not None:
            n_saved += len(word.tokens)
            if word.text:
                start_s, end_s = round(offset_s + word.start_s, 2), round(offset_s + word.end_s, 2)
                own.append(replace(word, start_s=start_s, end_s=end_s))
        agreed = segment
        if own:
            _shorten_after_pause(own, median_s, last_speech_s)
            agreed = _agree(segment, own, median_s)
            last_speech_s = agreed.end_s
        timed.append(replace(agreed, words=tuple(own)))
    return timed


def _shorten_at_sentence_ends(words: Sequence[Word], longest_s: float) -> list[Word]:
    shortened = list(words)
    for i in range(1, len(shortened)):
        word = shortened[i]
        if word.end_s - word.start_s <= longest_s:
            continue
        if word.text in _SENTENCE_ENDS:
            shortened[i] = replace(word, end_s=word.start_s + longest_s)
        elif shortened[i - 1].text in _SENTENCE_ENDS:
            shortened[i] = replace(word, start_s=word.end_s - longest_s)
    return shortened


def _shorten_after_pause(words: list[Word], median_s: float, last_speech_s: float) -> None:
    """Shorten the first and second word, in place, if they take up the pause before them."""
    longest_s = 2 * median_s
    first = words[0]
    if first.end_s - last_speech_s <= 4 * median_s:
        return
    both_long = len(words) > 1 and words[1].end_s - first.start_s > 2 * longest_s
    if not (first.end_s - first.start_s > longest_s or both_long):
        return
    if len(words) > 1 and words[1].end_s - words[1].start_s > longest_s:
        boundary = max(words[1].end_s / 2, words[1].end_s - longest_s)
        first = replace(first, end_s=boundary)
        words[1] = replace(words[1], start_s=boundary)
    words[0] = replace(first, start_s=max(0.0, first.end_s - longest_s))


def _agree(segment: TimedSegment, words: list[Word], median_s: float) -> TimedSegment:
    """Return the segment with its words' times; in place, cut words that are far outside it."""
    start_s, end_s = segment.start_s, segment.end_s
    first = words[0]
    if start_s < first.end_s and start_s - 0.5 > first.start_s:
        words[0] = replace(first, start_s=max(0.0, min(first.end_s - median_s, start_s)))
    else:
        start_s = first.start_s
    last = words[-1]
    if end_s > last.start_s and end_s + 0.5 < last.end_s:
        words[-1] = replace(last, end_s=max(last.start_s + median_s, end_s))
    else:
        end_s = last.end_s
    return replace(segment, start_s=start_s, end_s=end_s)
