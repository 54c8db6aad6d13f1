"""Mutated recordings through the decoding children. Knows nothing about who wants to know."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from service.api.errors import answer_to
from service.audio.decode import AudioDecoder, AudioLimits
from service.errors import ServiceError
from tests.fuzz.mutations import is_sound, mutated, originals

HANG_S = 60.0
LIMITS = AudioLimits(
    max_upload_bytes=1 << 24,
    max_audio_s=600.0,
    max_channels=8,
    max_decoded_bytes=1 << 28,
    decode_timeout_s=HANG_S,
)
CHILDREN = 2


@dataclass(slots=True)
class Findings:
    """What came of the files.

    Attributes:
        outcomes: counted.
        bad: in words, with the number of the file.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)


async def feed(decoder: AudioDecoder, data: bytes) -> tuple[str, bool]:
    """Return what came of a file, and whether that is as it should be."""
    try:
        waveform = await decoder.decode(data)
    except ServiceError as error:
        status = answer_to(error).status
        return f"{status} {error.code}", status in {400, 413}
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        return f"{type(error).__name__}: {error}", False
    return ("200", True) if is_sound(waveform) else ("no sound", False)


async def fuzz(
    seed: int, first: int, count: int, on_done: Callable[[], object] = lambda: None
) -> Findings:
    """Feed so many files to the children, and note what came of them."""
    files = originals()
    findings = Findings()
    decoder = AudioDecoder(LIMITS, max_children=CHILDREN)
    numbers: Iterator[int] = iter(range(first, first + count))

    async def work() -> None:
        for number in numbers:
            outcome, good = await feed(decoder, mutated(files, seed, number))
            findings.outcomes[outcome] += 1
            if not good:
                findings.bad.append(f"file {number} of seed {seed}: {outcome}")
            on_done()

    await decoder.start()
    try:
        await asyncio.gather(*(work() for _ in range(CHILDREN)))
    finally:
        await decoder.close()
    return findings
