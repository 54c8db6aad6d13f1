"""Makes the recordings in this folder with flite and espeak-ng.

They were chosen before the built-in model was trained and are never picked again. Their voices
(flite `slt`, espeak-ng's variant `f4`) are not among those that the model was trained on.

    python samples/make.py
"""

from __future__ import annotations

import subprocess
from pathlib import Path

FOLDER = Path(__file__).parent
FLITE = ("flite", "-voice", "slt")
ESPEAK = ("espeak-ng", "-v", "en-us+f4")
SAMPLES = {
    "zero_three_five_one": (FLITE, "zero three five one"),
    "seven": (ESPEAK, "seven"),
    "nine_two_eight_four_six": (FLITE, "nine two eight four six"),
    "not_digits": (FLITE, "please call me back tomorrow morning"),
}


def main() -> None:
    """Write each sample as 16 kHz mono 16-bit WAV."""
    for name, (program, text) in SAMPLES.items():
        spoken = FOLDER / f"{name}.raw.wav"
        output = ["-o", str(spoken)] if program is FLITE else ["-w", str(spoken)]
        words = ["-t", text] if program is FLITE else [text]
        subprocess.run([*program, *words, *output], check=True)
        target = FOLDER / f"{name}.wav"
        subprocess.run(["sox", "-D", spoken, "-b", "16", target, "rate", "16000"], check=True)
        spoken.unlink()


if __name__ == "__main__":
    main()
