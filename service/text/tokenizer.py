"""Whisper's tokenizer, from a checkpoint's own files. Knows nothing about models or decoding rules.

Special tokens are found by their text, never by the size of the vocabulary. The vocabulary is
byte-level BPE: a token is a run of bytes, which need not be whole characters.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from service.errors import CheckpointError, InvalidRequest
from service.text.languages import LANGUAGES
from service.text.vocabulary import build_bpe, byte_alphabet, read_definition, read_vocabulary

TIMESTAMP_S = 0.02
"""Seconds between two timestamp tokens."""

_GPT2_EOT = 50256
"""The released English-only models carry language tokens that they were never trained on. What
gives them away is GPT-2's own vocabulary, in which end-of-text stands here."""

_SYMBOLS = (
    *'"#()*+/:;<=>@[\\]^_`{|}~「」『』',
    *("<<", ">>", "<<<", ">>>", "--", "---", "-(", "-[", "('", '("', "((", "))", "(((", ")))"),
    *("[[", "]]", "{{", "}}", "♪♪", "♪♪♪"),
)
_MUSIC = tuple("♩♪♫♬♭♮♯")


_BYTES = byte_alphabet()


class WhisperTokenizer:
    """Text to tokens and back, with Whisper's special tokens by name.

    Args:
        definition: the content of a `tokenizer.json`.
        is_multilingual: what the checkpoint says; None to tell from the vocabulary: language
            tokens, and not GPT-2's original vocabulary, which the English-only models have.

    Attributes:
        eot, sot, sot_prev, sot_lm, no_timestamps: ids of special tokens.
        no_speech: <|nospeech|> (older vocabularies: <|nocaptions|>), None if there is none.
        transcribe, translate: None if there is none.
        timestamp_begin: <|0.00|>; every id from here on is a timestamp.
        n_vocab: one more than the largest id.
        is_multilingual: whether prompts name a language and a task.
        languages: code -> id of its token; empty unless multilingual.

    Raises:
        CheckpointError: if this is not a byte-level BPE vocabulary with Whisper's special tokens.
    """

    def __init__(
        self, definition: Mapping[str, Any], *, is_multilingual: bool | None = None
    ) -> None:
        self._definition = definition
        self._ids, special = read_vocabulary(definition)
        self._texts = {token_id: text for text, token_id in self._ids.items()}
        self._bpe = build_bpe(definition)
        self.n_vocab = max(self._texts) + 1
        self.eot = self._required("<|endoftext|>")
        self.sot = self._required("<|startoftranscript|>")
        self.sot_prev = self._required("<|startofprev|>")
        self.sot_lm = self._required("<|startoflm|>")
        self.no_timestamps = self._required("<|notimestamps|>")
        self.no_speech = self._ids.get("<|nospeech|>", self._ids.get("<|nocaptions|>"))
        self.transcribe = self._ids.get("<|transcribe|>")
        self.translate = self._ids.get("<|translate|>")
        # Vocabularies published before timestamps were written out end with <|notimestamps|>.
        self.timestamp_begin = self._ids.get("<|0.00|>", self.no_timestamps + 1)
        self._special = {i for i in special if i < self.timestamp_begin}
        languages = {
            code: self._ids[f"<|{code}|>"] for code in LANGUAGES if f"<|{code}|>" in self._ids
        }
        if is_multilingual is None:
            is_multilingual = bool(languages) and self.eot != _GPT2_EOT
        if is_multilingual and not languages:
            raise CheckpointError("the model is multilingual, its tokenizer has no language tokens")
        self.is_multilingual = is_multilingual
        self.languages: Mapping[str, int] = languages if is_multilingual else {}

    def _required(self, text: str) -> int:
        try:
            return self._ids[text]
        except KeyError:
            raise CheckpointError(f"the tokenizer has no {text} token") from None

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text. Special tokens written in it stay plain text."""
        return [i for i in self._bpe.encode(text, add_special_tokens=False).ids if self.is_text(i)]

    def decode(self, ids: Iterable[int], *, special: bool = False) -> str:
        """Return the text of the text tokens among `ids`, U+FFFD for malformed bytes.

        With `special` as openai/whisper's `decode`: special tokens stand as they are written, and
        only timestamps are left out.
        """
        piece = self._written if special else self.token_bytes
        return b"".join(map(piece, ids)).decode("utf-8", errors="replace")

    def _written(self, token_id: int) -> bytes:
        if token_id in self._special:
            return self._texts[token_id].encode()
        return self.token_bytes(token_id)

    def is_text(self, token_id: int) -> bool:
        """Whether the token stands for text: not special, no timestamp, known."""
        return (
            token_id < self.timestamp_begin
            and token_id not in self._special
            and token_id in self._texts
        )

    def token_bytes(self, token_id: int) -> bytes:
        """Return what the token adds to the text, empty for special tokens and timestamps."""
        if not self.is_text(token_id):
            return b""
        text = self._texts[token_id]
        try:
            return bytes(map(_BYTES.__getitem__, text))
        except KeyError:  # a word that a fine-tune added stands in the vocabulary as it is
            return text.encode()

    def token_text(self, token_id: int) -> str | None:
        """Return the token as the vocabulary writes it, None if there is no such token."""
        return self._texts.get(token_id)

    def timestamp_s(self, token_id: int) -> float | None:
        """Return the seconds into the window that a timestamp token names, None for others."""
        if token_id < self.timestamp_begin:
            return None
        return round((token_id - self.timestamp_begin) * TIMESTAMP_S, 2)

    def sot_sequence(self, language: str | None, task: str, timestamps: bool) -> tuple[int, ...]:
        """Return the prompt's end: start of transcript, language, task, perhaps no timestamps.

        Args:
            language: a code; a model that is not multilingual takes None and "en".
            task: "transcribe" or "translate".
            timestamps: whether the model is to predict timestamps.

        Raises:
            InvalidRequest: if the model has no such language or task.
        """
        tail = () if timestamps else (self.no_timestamps,)
        if not self.is_multilingual:
            self._refuse_other_than_english(language, task)
            return (self.sot, *tail)
        if language is None or language not in self.languages:
            raise InvalidRequest(f"this model has no language {language!r}", param="language")
        task_id = {"transcribe": self.transcribe, "translate": self.translate}.get(task)
        if task_id is None:
            raise InvalidRequest(f"this model has no task {task!r}", param="task")
        return (self.sot, self.languages[language], task_id, *tail)

    @staticmethod
    def _refuse_other_than_english(language: str | None, task: str) -> None:
        if language not in (None, "en"):
            raise InvalidRequest(
                f"this model is English only, the request's language is {language!r}",
                param="language",
            )
        if task != "transcribe":
            raise InvalidRequest(
                f"this model is English only and cannot do the task {task!r}", param="task"
            )

    @cached_property
    def blank_tokens(self) -> tuple[int, ...]:
        """The tokens of " ", which may not come first."""
        return tuple(self.encode(" "))

    @cached_property
    def non_speech_tokens(self) -> tuple[int, ...]:
        """Tokens of annotations that nobody speaks: brackets, speaker tags, music.

        As openai/whisper `Tokenizer.non_speech_tokens` computes them: symbols that are one token,
        with and without a space before them; the first token of musical symbols; and hyphen and
        apostrophe at the start of a word.
        """
        found = {first for text in (" -", " '") for first in self.encode(text)[:1]}
        for symbol in (*_SYMBOLS, *_MUSIC):
            for tokens in (self.encode(symbol), self.encode(" " + symbol)):
                if len(tokens) == 1 or (tokens and symbol in _MUSIC):
                    found.add(tokens[0])
        return tuple(sorted(found))

    @cached_property
    def control_tokens(self) -> tuple[int, ...]:
        """Special tokens that the reference never samples, beside end-of-text and timestamps."""
        candidates = (
            self.transcribe,
            self.translate,
            self.sot,
            self.sot_prev,
            self.sot_lm,
            self.no_speech,
        )
        return tuple(sorted(i for i in candidates if i is not None))

    def suppressed(self, requested: Iterable[int]) -> tuple[int, ...]:
        """Return what is never sampled if this is requested; -1 stands for the non-speech tokens.

        As openai/whisper `DecodingTask`: the control tokens are always among it, unless nothing is
        requested at all.
        """
        wanted = set(requested)
        if not wanted:
            return ()
        if -1 in wanted:
            wanted = {i for i in wanted if i >= 0} | set(self.non_speech_tokens)
        return tuple(sorted(wanted | set(self.control_tokens)))

    def to_json(self) -> str:
        """Return the content of a `tokenizer.json` that loads as this tokenizer."""
        return json.dumps(self._definition, ensure_ascii=False)


def load_tokenizer(folder: Path, *, is_multilingual: bool | None = None) -> WhisperTokenizer:
    """Read `tokenizer.json`, or `vocab.json`, `merges.txt` and `added_tokens.json`.

    Args:
        folder: where the files are; a `tokenizer.json` file itself is taken too.
        is_multilingual: as for `WhisperTokenizer`.

    Raises:
        CheckpointError: if there are no such files, or they are damaged.
    """
    definition = read_definition(folder)
    try:
        return WhisperTokenizer(definition, is_multilingual=is_multilingual)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error.message}") from error
