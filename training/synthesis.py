"""Speaks digits and sentences with espeak-ng, flite and festival, in many voices, rates, pitches.

flite's `slt` and espeak-ng's variant `f4` speak the recordings in `samples/` and are left out.
Knows nothing about how the clips are used.

python -m training.synthesis --root DATA --cache CACHE      writes CACHE/tts.{i16,jsonl}
"""

from __future__ import annotations

import lzma
import random
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import numpy as np
import soundfile
import typer
from numpy.typing import NDArray
from rich.progress import track
from scipy.signal import resample_poly

from training.corpora import DIGITS, normalise
from training.store import SAMPLE_RATE, Entry, write_store

ACCENTS = (
    "en-us",
    "en-gb",
    "en-gb-scotland",
    "en-gb-x-gbclan",
    "en-gb-x-rp",
    "en-gb-x-gbcwmd",
    "en-029",
    "en-us-nyc",
)
HELD_OUT_VARIANTS = frozenset({"f4"})
ODD_VARIANTS = frozenset({"Demonic", "Tweaky", "croak", "whisper", "whisperf", "fast"})
FLITE_VOICES = ("kal16", "awb", "rms")
FESTIVAL_VOICES = ("kal_diphone", "ked_diphone")


@dataclass(frozen=True, slots=True)
class Line:
    """One text for one program."""

    program: str
    text: str
    seed: int


def espeak(line: Line, target: Path, variants: list[str]) -> str:
    """Speak with a random accent, variant, pitch and rate; return the voice."""
    rng = random.Random(line.seed)
    voice = f"{rng.choice(ACCENTS)}+{rng.choice(variants)}"
    pitch, rate = rng.randint(10, 90), rng.randint(105, 230)
    options = ["-p", str(pitch), "-s", str(rate), "-w", str(target)]
    subprocess.run(["espeak-ng", "-v", voice, *options, line.text], check=True, timeout=60)
    return f"espeak_{voice}"


def flite(line: Line, target: Path) -> str:
    """Speak with a random voice, rate and, for the diphone voice, pitch; return the voice."""
    rng = random.Random(line.seed)
    voice = rng.choice(FLITE_VOICES)
    options = ["--setf", f"duration_stretch={rng.uniform(0.75, 1.4):.2f}"]
    if voice == "kal16":
        options += ["--setf", f"int_f0_target_mean={rng.uniform(80, 220):.0f}"]
    subprocess.run(
        ["flite", "-voice", voice, *options, "-t", line.text, "-o", str(target)],
        check=True,
        timeout=60,
    )
    return f"flite_{voice}"


def festival(line: Line, target: Path) -> str:
    """Speak with a random diphone voice and rate; return the voice."""
    rng = random.Random(line.seed)
    voice = rng.choice(FESTIVAL_VOICES)
    script = (
        f"(voice_{voice}) (Parameter.set 'Duration_Stretch {rng.uniform(0.75, 1.4):.2f})"
        f'(utt.save.wave (utt.synth (Utterance Text "{line.text}")) "{target}")'
    )
    command = ["festival", "--pipe"]
    subprocess.run(command, input=script.encode(), check=True, timeout=60, capture_output=True)
    return f"festival_{voice}"


def read_audio(path: Path) -> NDArray[np.int16]:
    """Return a file as 16 kHz mono int16[n]."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono = samples.mean(axis=1)
    if rate != SAMPLE_RATE:
        ratio = Fraction(SAMPLE_RATE, rate)
        mono = resample_poly(mono, ratio.numerator, ratio.denominator)
    return np.asarray(np.clip(np.round(mono * 32767), -32768, 32767), np.int16)


def speech_level(samples: NDArray[np.int16]) -> float:
    """Return the power of 10 ms that counts as speech, given the noise of the recording.

    26 dB under the loudest, or half of the way from the noise floor to it if that is more.
    """
    power = _power(samples)
    peak, floor = np.log10(power.max() + 1), np.log10(np.percentile(power, 8) + 1)
    return float(10 ** max(peak - 2.6, floor + (peak - floor) / 2))


def _power(samples: NDArray[np.int16]) -> NDArray[np.float32]:
    frames = len(samples) // 160
    whole = samples[: frames * 160].astype(np.float32).reshape(frames, 160)
    return np.asarray((whole**2).mean(axis=1))


def trim(
    samples: NDArray[np.int16], margin_s: float = 0.02, level: float | None = None
) -> NDArray[np.int16]:
    """Cut off both ends what is under `level`, by default 35 dB under the loudest 10 ms."""
    if len(samples) < 480:
        return samples
    power = _power(samples)
    loud = np.flatnonzero(power > (power.max() * 10**-3.5 if level is None else level))
    if not len(loud):
        return samples[:0]
    margin = round(margin_s * SAMPLE_RATE)
    return samples[max(0, loud[0] * 160 - margin) : (loud[-1] + 1) * 160 + margin]


def espeak_variants() -> list[str]:
    """Return the installed voice variants that training may use."""
    listing = subprocess.run(
        ["espeak-ng", "--voices=variant"], check=True, capture_output=True, text=True
    ).stdout
    names = {line.split("!v/")[1].split("  ")[0].strip() for line in listing.splitlines()[1:]}
    return sorted(n for n in names - HELD_OUT_VARIANTS - ODD_VARIANTS if " " not in n)


def digit_text(rng: random.Random) -> str:
    """Return one to seven digits, now and then with commas, which are short pauses."""
    count = rng.choice((1, 1, 1, 2, 3, 3, 4, 4, 5, 6, 7))
    joint = ", " if rng.random() < 0.25 else " "
    return joint.join(rng.choice(DIGITS) for _ in range(count))


def lines(sentences: list[str], scale: float) -> Iterator[Line]:
    """Yield what is to be spoken, digits first."""
    rng = random.Random(17)
    plan = {"espeak": (6000, 2600), "flite": (2400, 700), "festival": (700, 250)}
    for program, (digits, others) in plan.items():
        for _ in range(round(digits * scale)):
            yield Line(program, digit_text(rng), rng.getrandbits(32))
        for _ in range(round(others * scale)):
            yield Line(program, rng.choice(sentences), rng.getrandbits(32))


def speak(line: Line, variants: list[str]) -> tuple[NDArray[np.int16], Entry] | None:
    """Return a trimmed clip, or None if the program made nothing of the text."""
    programs: dict[str, Callable[[Line, Path], str]] = {
        "espeak": lambda item, path: espeak(item, path, variants),
        "flite": flite,
        "festival": festival,
    }
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "spoken.wav"
        try:
            voice = programs[line.program](line, target)
            samples = trim(read_audio(target))
        except (subprocess.SubprocessError, soundfile.SoundFileError):
            return None
    if not 1600 < len(samples) < 30 * SAMPLE_RATE or np.abs(samples).max() < 300:
        return None
    return samples, Entry(0, 0, normalise(line.text), voice, "tts", "train")


def main(
    root: Annotated[Path, typer.Option(help="Folder with sentences.txt.xz.")],
    cache: Annotated[Path, typer.Option(help="Folder for prepared audio.")],
    scale: Annotated[float, typer.Option(help="Share of the clips to make.")] = 1.0,
) -> None:
    """Speak about 12,600 clips; 5 to 10 minutes on two cores."""
    with lzma.open(root / "sentences.txt.xz", "rt", encoding="utf-8") as file:
        sentences = [line.strip() for _, line in zip(range(30_000), file, strict=False)]
    sentences = [s for s in sentences if len(s) < 80 and '"' not in s and "\\" not in s]
    work = list(lines(sentences, scale))
    variants = espeak_variants()
    with ThreadPoolExecutor(2) as pool:
        spoken = pool.map(lambda line: speak(line, variants), work)
        kept = (clip for clip in track(spoken, "speaking", total=len(work)) if clip is not None)
        print(write_store(cache / "tts", kept), "clips")


if __name__ == "__main__":
    typer.run(main)
