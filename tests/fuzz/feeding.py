"""Mutated recordings through the decoding children. Knows nothing about who wants to know."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field

from service.api.errors import answer_to
from service.audio.decode import AudioDecoder, AudioLimits
from service.errors import ServiceError
from tests.fuzz.forked import forking
from tests.fuzz.mutations import is_sound, mutated, originals

HANG_S = 60.0
LIMITS = AudioLimits(
    max_upload_bytes=1 << 24,
    max_audio_s=600.0,
    max_channels=8,
    max_decoded_bytes=1 << 28,
    decode_timeout_s=HANG_S,
)
CHILDREN = max(2, os.cpu_count() or 1)


@dataclass(slots=True)
class Findings:
    """What came of the files.

    Attributes:
        outcomes: counted.
        bad: in words, with the number of the file.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)

    def of_status(self, first: str) -> int:
        """Return how many outcomes begin with a digit, or with digits."""
        return sum(count for what, count in self.outcomes.items() if what.startswith(first))


async def feed(decoder: AudioDecoder, data: bytes) -> tuple[str, bool]:
    """Return what came of a file, and whether that is as it should be."""
    try:
        waveform = await decoder.decode(data)
    except ServiceError as error:
        status = answer_to(error).status
        return f"{status} {error.code}", status in {400, 413}
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        return f"500 {type(error).__name__}: {error}", False
    return ("200", True) if is_sound(waveform) else ("200 but no sound", False)


async def fuzz(
    seed: int,
    numbers: Iterable[int],
    findings: Findings,
    on_done: Callable[[], object] = lambda: None,
    *,
    forked: bool = False,
) -> None:
    """Feed files to the children, and note what came of them.

    Args:
        seed: of all files.
        numbers: of the files.
        findings: where it is noted.
        on_done: called after each.
        forked: fork the children from one that is loaded; the service executes each.
    """
    files = originals()
    decoder = AudioDecoder(LIMITS, max_children=CHILDREN)
    left: Iterator[int] = iter(numbers)

    async def work() -> None:
        for number in left:
            outcome, good = await feed(decoder, mutated(files, seed, number))
            findings.outcomes[outcome] += 1
            if not good:
                findings.bad.append(f"file {number} of seed {seed}: {outcome}")
            on_done()

    async with forking() if forked else nullcontext():
        await decoder.start()
        try:
            # One more than can be decoded at once: while it is made, no child waits.
            await asyncio.gather(*(work() for _ in range(CHILDREN + 1)))
        finally:
            await decoder.close()
