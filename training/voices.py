"""Speaks digits and sentences in a few hundred voices that are nobody's: blends of Kokoro's.

Kokoro-82M (hexgrad, Apache-2.0) describes a voice by one vector for each length of text; between
the vectors of two voices lie others. It is told phonemes, so that no dictionary is needed: digits
are written below, sentences are espeak-ng's. FOLDER holds the model, its vocabulary and voices;
training/README.md says which packages they come in. Knows nothing about how the clips are used.

python -m training.voices --kokoro FOLDER --root DATA --cache CACHE  writes CACHE/voices.{i16,jsonl}
"""

from __future__ import annotations

import json
import lzma
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.progress import track
from scipy.signal import resample_poly

from training.corpora import DIGITS, normalise
from training.store import SAMPLE_RATE, Entry, write_store
from training.synthesis import trim

MODEL, VOCABULARY, VOICES = "kokoro-v1.0.int8.onnx", "vocab.json", "voices"
SOURCE_RATE, STYLE_WIDTH = 24_000, 256
PHONEMES = {
    "zero": ("zˈɪɹO", "zˈiɹO", "zˈɪəɹQ"),
    "one": ("wˈʌn",),
    "two": ("tˈu",),
    "three": ("θɹˈi",),
    "four": ("fˈɔɹ", "fˈɔ"),
    "five": ("fˈIv",),
    "six": ("sˈɪks",),
    "seven": ("sˈɛvən",),
    "eight": ("ˈAt",),
    "nine": ("nˈIn",),
}
"""In Kokoro's alphabet, where capitals are diphthongs; some also as the British say it."""
FOREIGN = {
    "zero": ("zˈɛɹo", "zˈiɹo", "sˈiɹo", "ʤˈiɹO", "tsˈɛʁo"),
    "one": ("vˈan", "wˈan", "wˈɔn", "ʊˈan", "wˈɑŋ"),
    "two": ("tˈuː", "tˈʊu", "tˈy"),
    "three": ("sɹˈi", "tɹˈi", "fɹˈi", "sʁˈi", "θɾˈiː", "zɹˈi"),
    "four": ("fˈɔɐ", "fˈoɹ", "fˈɔʁ", "fˈoə", "fˈɔː"),
    "five": ("fˈaɪf", "fˈIf", "fˈaɪv", "fˈaɪ", "pˈIv"),
    "six": ("sˈiks", "zˈɪks", "sˈɪkəs", "sˈɛks"),
    "seven": ("zˈɛvən", "sˈɛfən", "sˈɛvɛn", "sˈɛbən", "sˈæven"),
    "eight": ("ˈɛɪt", "ˈeːt", "ˈet", "ˈɛt", "hˈAt"),
    "nine": ("nˈaɪn", "nˈaɪnə", "nˈaɪŋ", "nˈan"),
}
"""As people say them whose first language has other sounds."""
ACCENTED = 0.5
"""How many of the words that a blend says are said so."""
FROM_IPA = (
    *(("aɪ", "I"), ("aʊ", "W"), ("eɪ", "A"), ("oʊ", "O"), ("əʊ", "O"), ("ɔɪ", "Y")),
    *(("tʃ", "ʧ"), ("dʒ", "ʤ"), ("ɚ", "əɹ"), ("r", "ɹ"), ("ɐ", "ə"), ("ː", ""), ("\u0329", "")),
)
SENTENCES = 0.12
"""How many of the voices read a sentence besides, lest they be taken for voices of digits only."""


class Kokoro:
    """The model, and the voices that it came with."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime  # noqa: PLC0415 - nothing but this step of the recipe needs it

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(folder / MODEL), sess_options=options, providers=["CPUExecutionProvider"]
        )
        self._vocabulary = json.loads((folder / VOCABULARY).read_text(encoding="utf-8"))["vocab"]
        self.voices = {
            path.stem: np.fromfile(path, np.float32).reshape(-1, STYLE_WIDTH)
            for path in sorted((folder / VOICES).glob("*.bin"))
        }

    def speak(self, phonemes: str, voice: NDArray[np.float32], speed: float) -> NDArray[np.int16]:
        """Return trimmed speech at 16 kHz, int16[n].

        Shapes: voice f32[longest 256], a row for each number of phonemes.
        """
        tokens = [self._vocabulary[p] for p in phonemes if p in self._vocabulary]
        style = voice[min(len(tokens), len(voice)) - 1]
        inputs = {
            "tokens": np.array([[0, *tokens, 0]], np.int64),
            "style": style[None],
            "speed": np.array([speed], np.float32),
        }
        sound = np.asarray(self._session.run(None, inputs)[0], np.float32).ravel()
        sound = resample_poly(sound, SAMPLE_RATE // 8000, SOURCE_RATE // 8000)
        return trim(np.asarray(np.clip(sound * 32767, -32768, 32767), np.int16))


def voice(kokoro: Kokoro, rng: random.Random, index: int) -> tuple[str, NDArray[np.float32]]:
    """Return one of Kokoro's voices, each once, or a blend of two of them."""
    names = list(kokoro.voices)
    if index < len(names):
        return f"kokoro_{names[index]}", kokoro.voices[names[index]]
    left, right = rng.sample(names, 2)
    share = rng.uniform(0.25, 0.75)
    blend = share * kokoro.voices[left] + (1 - share) * kokoro.voices[right]
    return f"kokoro_{left}+{right}", np.asarray(blend, np.float32)


def digit_strings(rng: random.Random, accented: float) -> Iterator[tuple[str, str]]:
    """Yield texts with phonemes: the ten digits in a random order, five at a time."""
    order = rng.sample(DIGITS, len(DIGITS))
    for words in (order[:5], order[5:]):
        joint = rng.choice((", ", ". ", ". ", "! ", "? ", " "))
        said = [
            rng.choice((FOREIGN if rng.random() < accented else PHONEMES)[word]) for word in words
        ]
        yield " ".join(words), joint.join(said) + (joint.strip(" ,") or ".")


def sentence(rng: random.Random, texts: list[str]) -> tuple[str, str]:
    """Return a text with its phonemes."""
    text = rng.choice(texts)
    return text, phonemes_of(text) + "."


def phonemes_of(text: str) -> str:
    """Return what espeak-ng would say, in Kokoro's alphabet."""
    command = ["espeak-ng", "-q", "--ipa", "-v", "en-us", text]
    phonemes = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    for ipa, ours in FROM_IPA:
        phonemes = phonemes.replace(ipa, ours)
    return " ".join(phonemes.split())


def read_sentences(root: Path) -> list[str]:
    """Return short sentences."""
    with lzma.open(root / "sentences.txt.xz", "rt", encoding="utf-8") as file:
        texts = [line.strip() for _, line in zip(range(5_000), file, strict=False)]
    return [text for text in texts if len(text) < 60]


def clips(
    kokoro: Kokoro, texts: list[str], count: int
) -> Iterator[tuple[NDArray[np.int16], Entry]]:
    """Yield what `count` voices say."""
    rng = random.Random(82)
    order = list(range(count))
    rng.shuffle(order)
    for index in track(order, "speaking"):
        name, style = voice(kokoro, rng, index)
        spoken = list(digit_strings(rng, ACCENTED if index >= len(kokoro.voices) else 0.0))
        if rng.random() < SENTENCES:
            spoken.append(sentence(rng, texts))
        for text, phonemes in spoken:
            samples = kokoro.speak(phonemes, style, rng.uniform(0.8, 1.3))
            if len(samples) > SAMPLE_RATE // 10:
                yield samples, Entry(0, 0, normalise(text), name, "voices", "train")


def main(
    kokoro: Annotated[Path, typer.Option(help="Folder with Kokoro's model and voices.")],
    root: Annotated[Path, typer.Option(help="Folder with sentences.txt.xz.")],
    cache: Annotated[Path, typer.Option(help="Folder for prepared audio.")],
    count: Annotated[int, typer.Option(help="How many voices.")] = 640,
) -> None:
    """Speak the ten digits in many voices; about half an hour on one core."""
    spoken = clips(Kokoro(kokoro), read_sentences(root), count)
    print(write_store(cache / "voices", spoken), "clips")


if __name__ == "__main__":
    typer.run(main)
