"""Damaged `.apr` files by the hundred: an answer each time, in bounded time and memory.

A few seconds here; `EARSHOT_FUZZ=100000` is the long run.
"""

from __future__ import annotations

import os
import random
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from service.checkpoints import load_checkpoint
from service.errors import CheckpointError
from service.model import WhisperConfig, WhisperModel
from service.text import WhisperTokenizer
from tests.unit.checkpoints.apr_bytes import repaired
from tests.unit.checkpoints.apr_models import v1_of, v2_of

N_FILES = int(os.environ.get("EARSHOT_FUZZ", "60"))
_HEADER_BYTES = 4096
"""Where most mutations go: header, metadata, index."""
_EXTREMES = (b"\0" * 8, b"\xff" * 8, b"\xff" * 4, b"\x80" + b"\0" * 7, b"\0" * 7 + b"\x7f")


def _mutated(content: bytes, random_: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(random_.choice((1, 1, 2, 8))):
        reach = len(data) if random_.random() < 0.2 else min(_HEADER_BYTES, len(data))
        at = random_.randrange(reach)
        kind = random_.randrange(4)
        if kind == 0:
            data[at] ^= 1 << random_.randrange(8)
        elif kind == 1:
            extreme = random_.choice(_EXTREMES)
            data[at : at + len(extreme)] = extreme
        elif kind == 2:
            del data[at : at + random_.randrange(1, 200)]
        else:
            data[at:at] = data[at : at + random_.randrange(1, 200)]
    if random_.random() < 0.2:
        del data[random_.randrange(len(data)) :]
    return repaired(bytes(data)) if len(data) > 4 else bytes(data)


@pytest.mark.timeout(max(120, N_FILES // 5))
@pytest.mark.parametrize("version", [1, 2])
def test_no_damage_crashes_hangs_or_fills_the_memory(
    tmp_path: Path, make_tokenizer: Callable[..., WhisperTokenizer], version: int
) -> None:
    tokenizer = make_tokenizer()
    model = WhisperModel(WhisperConfig(80, 20, 8, 1, 1, 8, tokenizer.n_vocab, 16, 1, 1, 8))
    model.requires_grad_(False)
    whole = (v1_of if version == 1 else v2_of)(model, tokenizer).build()
    random_, path = random.Random(version), tmp_path / "model.apr"
    served, messages = 0, []
    for i in range(N_FILES):
        path.write_bytes(_mutated(whole, random_))
        tracemalloc.start()
        began = time.monotonic()
        try:
            checkpoint = load_checkpoint(path, offline=True)
            assert sum(tensor.nbytes for tensor in checkpoint.state.values()) <= 16 * len(whole)
            served += 1
        except CheckpointError as error:
            messages.append(error.message)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert time.monotonic() - began < 20, i
        assert peak < 64 * len(whole), i
    assert len(messages) > N_FILES // 4
    assert served + len(messages) == N_FILES
    assert not [message for message in messages if "\n" in message]
