"""Says words one by one as people all over the world might, in voices unlike any that there are.

A sound of English is one of many elsewhere: "three" is "tri", "fri" or "səɾij". Each is drawn here
from all that stand for it somewhere. Voices are blends of three of Kokoro's that go beyond them,
away from the mean of all. Knows nothing about how the clips are used.

python -m training.strangers --kokoro FOLDER --root DATA --cache CACHE
    writes CACHE/strangers.{i16,jsonl}
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from multiprocessing import Pool
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.progress import track

from training.corpora import DIGITS
from training.labels import OTHER, tag_of
from training.store import SAMPLE_RATE, Entry, write_store
from training.voices import STYLE_WIDTH, Kokoro, phonemes_of, read_sentences

Clips = list[tuple[NDArray[np.int16], Entry]]

SOUNDS = {
    "zero": ("z s ʦ ʤ ð ʣ", "ˈɪ ˈi ˈiː ˈɛ ˈe ˈiə", "ɹ ɹ r ɾ ʁ l", "O Q o oː ɔ ɤ"),
    "one": ("w w v ʋ u ʊ ɣw", "ˈʌ ˈa ˈɑ ˈɔ ˈɐ ˈo", "n n ŋ nə ɴ"),
    "two": ("t t ʈ tʰ ʧ d ʦ", "ˈu ˈuː ˈʊ ˈʊu ˈy ˈɯ ˈɨu"),
    "three": ("θ θ t s f d ʈ tʰ ʂ θə sə", "ɹ ɹ r ɾ ʁ h ɻ w l", "ˈi ˈiː ˈɪ ˈij ˈe"),
    "four": ("f f ɸ v p h", "ˈɔ ˈo ˈoː ˈɔː ˈO ˈu ˈɒ", "ɹ ɹ r ɾ ʁ ə ɐ ː"),
    "five": ("f f ɸ v p h", "ˈI ˈaɪ ˈaj ˈɑɪ ˈɔɪ ˈaː ˈɛɪ", "v v f b w u ʋ"),
    "six": ("s s z ʃ θ ɕ", "ˈɪ ˈi ˈɛ ˈɨ ˈə", "k k kə x ɣ", "s s sə z ʃ"),
    "seven": ("s s z ʃ θ ɕ", "ˈɛ ˈe ˈæ ˈɪ ˈa", "v v f b w β ʋ", "ə ə ɛ ɪ a ɨ", "n n m ŋ nə"),
    "eight": ("ˈA ˈeː ˈe ˈɛ ˈɛɪ ˈej hˈA ˈaɪ", "t t ʈ tʰ tə d ʔ ʧ"),
    "nine": ("n n ɲ nə l", "ˈI ˈaɪ ˈaj ˈɑɪ ˈaː ˈɔɪ ˈɛɪ", "n n ŋ nə ɲ m"),
}
"""What may be said in each place of a word, in Kokoro's alphabet; what is usual comes first,
and is there twice where it is likelier."""
ELSEWHERE = {
    "θ": "t s f",
    "ð": "d z v",
    "ɹ": "r ɾ ʁ ɻ",
    "w": "v ʋ",
    "v": "w b f",
    "z": "s",
    "l": "ɾ",
    "t": "ʈ tʰ",
    "d": "ɖ",
    "ɪ": "i ɨ",
    "ʌ": "a ɔ",
    "æ": "ɛ a",
    "ə": "a ɛ",
    "ɜ": "ɛ o",
    "ʊ": "u",
    "ɔ": "o",
    "ɛ": "e æ",
    "u": "ʊ y",
    "i": "ɪ",
    "O": "o ɔ",
    "A": "e ɛɪ",
    "I": "aj ɑɪ",
}
"""What may stand for a sound of any other word."""
USUAL = 0.35
"""How often a sound is the usual one, whatever else there is."""
MEMBERS = 3
FURTHEST = 1.7
"""How many times as far from the mean of all voices as the blend itself."""
OTHER_WORDS = 2
"""Words besides the ten digits that each says."""


def style(
    rng: random.Random, voices: list[NDArray[np.float32]], mean: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return a blend of some voices, pushed away from their mean, f32[longest 256]."""
    shares = np.array([rng.random() for _ in range(MEMBERS)])
    chosen = rng.sample(voices, MEMBERS)
    blend = sum(s * v for s, v in zip(shares / shares.sum(), chosen, strict=True))
    return np.asarray(mean + rng.uniform(0.9, FURTHEST) * (blend - mean), np.float32)


def voice(
    rng: random.Random, voices: list[NDArray[np.float32]], mean: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return a voice; every other has its sound from one blend and its melody from another."""
    made = style(rng, voices, mean)
    if rng.random() < 0.5:
        made[:, STYLE_WIDTH // 2 :] = style(rng, voices, mean)[:, STYLE_WIDTH // 2 :]
    return made


def pronounce(rng: random.Random, word: str) -> str:
    """Return a digit as somebody somewhere may say it."""
    sounds = []
    for place in SOUNDS[word]:
        options = place.split()
        sounds.append(options[0] if rng.random() < USUAL else rng.choice(options))
    return "".join(sounds)


def mispronounce(rng: random.Random, phonemes: str) -> str:
    """Return a word with some of its sounds as they are elsewhere."""
    return "".join(
        rng.choice(ELSEWHERE[sound].split())
        if sound in ELSEWHERE and rng.random() > USUAL
        else sound
        for sound in phonemes
    )


def other_words(sentences: list[str]) -> list[str]:
    """Return the words of the sentences that sound like no digit, each once."""
    words = {word.strip(".,;:!?").lower() for text in sentences for word in text.split()}
    return sorted(w for w in words if w.isalpha() and 2 < len(w) < 9 and tag_of(w) == OTHER)


class Speaker:
    """One process's Kokoro."""

    kokoro: Kokoro
    voices: list[NDArray[np.float32]]
    mean: NDArray[np.float32]
    words: list[str]

    @classmethod
    def start(cls, folder: Path, words: list[str]) -> None:
        """Load the model, once a process."""
        cls.kokoro, cls.words = Kokoro(folder), words
        cls.voices = list(cls.kokoro.voices.values())
        cls.mean = np.asarray(np.mean(cls.voices, axis=0), np.float32)

    @classmethod
    def speak(cls, index: int) -> Clips:
        """Return what stranger number `index` says."""
        rng = random.Random(9000 + index)
        made, name = voice(rng, cls.voices, cls.mean), f"stranger_{index}"
        said = [(word, pronounce(rng, word)) for word in DIGITS]
        others = rng.sample(cls.words, OTHER_WORDS)
        said += [(word, mispronounce(rng, phonemes_of(word))) for word in others]
        pace = rng.uniform(0.75, 1.3)
        clips = []
        for text, phonemes in said:
            ending = rng.choice((".", ".", "!", "?", ","))
            speed = pace * rng.uniform(0.9, 1.1)
            samples = cls.kokoro.speak(phonemes + ending, made, speed)
            if len(samples) > SAMPLE_RATE // 10:
                clips.append((samples, Entry(0, 0, text, name, "strangers", "train")))
        return clips


def spoken(kokoro: Path, words: list[str], count: int) -> Iterator[tuple[NDArray[np.int16], Entry]]:
    """Yield what `count` strangers say."""
    with Pool(2, Speaker.start, (kokoro, words)) as pool:
        for clips in track(pool.imap(Speaker.speak, range(count)), "speaking", total=count):
            yield from clips


def main(
    kokoro: Annotated[Path, typer.Option(help="Folder with Kokoro's model and voices.")],
    root: Annotated[Path, typer.Option(help="Folder with sentences.txt.xz.")],
    cache: Annotated[Path, typer.Option(help="Folder for prepared audio.")],
    count: Annotated[int, typer.Option(help="How many voices.")] = 200,
) -> None:
    """Let strangers say the digits; about 20 minutes on two cores."""
    words = other_words(read_sentences(root))
    print(write_store(cache / "strangers", spoken(kokoro, words, count)), "clips")


if __name__ == "__main__":
    typer.run(main)
