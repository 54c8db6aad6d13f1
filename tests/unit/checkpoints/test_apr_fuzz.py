"""Damaged `.apr` files by the hundred: an answer each time, in bounded time and memory.

A few seconds here; `EARSHOT_FUZZ=100000` is the long run.
"""

from __future__ import annotations

import json
import os
import random
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lz4.block
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.checkpoints import Checkpoint, load_checkpoint, save_hf_folder
from service.checkpoints.apr import read_apr
from service.checkpoints.convert import Target, convert
from service.errors import CheckpointError
from service.model import WhisperConfig, WhisperModel
from service.text import WhisperTokenizer
from tests.unit.checkpoints.apr_bytes import V1, V2, f32, repaired

N_FILES = int(os.environ.get("EARSHOT_FUZZ", "60"))
_BATCH = 200
"""Files that are on the disk together."""
_EXTREMES = (b"\0" * 8, b"\xff" * 8, b"\xff" * 4, b"\x80" + b"\0" * 7, b"\0" * 7 + b"\x7f")
_SPARE_BYTES = 32 << 20
"""What Python and torch may take for themselves while a file of 200 kB is read."""
KINDS = {
    "layout 1": (Target.APR_V1, None),
    "layout 1 int8": (Target.APR_V1, "int8"),
    "layout 2": (Target.APR_V2, None),
    "layout 2 q4": (Target.APR_V2, "q4"),
    "layout 2 in lz4": (Target.APR_V2, None),
    "layout 2 in zstd": (Target.APR_V2, "f16"),
}


def compressed(content: bytes, how: str) -> bytes:
    """Pack everything after the header of a second-layout file, and say so in its flags."""
    bit = 1 if how == "lz4" else 2
    flags = struct.unpack_from("<H", content, 6)[0] | bit
    content = repaired(content[:6] + struct.pack("<H", flags) + content[8:])
    head, body = content[:64], content[64:]
    if how == "lz4":
        packed: bytes = lz4.block.compress(body)  # with its size before it
        return head + packed
    return head + zstandard.ZstdCompressor().compress(body)


def _mutated(content: bytes, random_: random.Random) -> bytes:
    """Change bytes: mostly at the beginning, where the index is, and in the sections at the end."""
    data = bytearray(content)
    for _ in range(random_.choice((1, 1, 2, 8))):
        first, last = random_.choice(
            ((0, 64), (0, 8192), (0, 8192), (len(data) - 40_000, len(data)), (0, len(data)))
        )
        at = random_.randrange(max(first, 0), min(last, len(data)))
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


def _loaded(paths: list[Path]) -> list[dict[str, Any]]:
    """How each file ended in a process of its own, which must survive them all."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.unit.checkpoints.measured"],
        input="".join(f"{path}\n" for path in paths),
        capture_output=True, text=True, check=False, timeout=60 + len(paths),
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()]


def _whole(folder: Path, tokenizer: WhisperTokenizer, kind: str, width: int) -> bytes:
    config = WhisperConfig(80, 20, width, 1, 1, width, tokenizer.n_vocab, 16, 1, 1, width)
    model = WhisperModel(config).requires_grad_(False)
    save_hf_folder(folder / "hf", model.state_dict(), config, tokenizer=tokenizer)
    checkpoint: Checkpoint = load_checkpoint(folder / "hf")
    target, quantize = KINDS[kind]
    convert(checkpoint, folder / "whole.apr", target, quantize=quantize, overwrite=True)
    return (folder / "whole.apr").read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured by /proc")
@pytest.mark.timeout(max(300, 2 * N_FILES))
@pytest.mark.parametrize("kind", KINDS)
def test_no_damage_crashes_hangs_or_fills_the_memory(
    tmp_path: Path, make_tokenizer: Callable[..., WhisperTokenizer], kind: str
) -> None:
    whole = _whole(tmp_path, make_tokenizer(), kind, 16)
    random_ = random.Random(kind)
    refused = 0
    for start in range(0, N_FILES, _BATCH):
        paths = [tmp_path / f"{i}.apr" for i in range(start, min(start + _BATCH, N_FILES))]
        for path in paths:
            content = _mutated(whole, random_)
            if " in " in kind and len(content) > 64:
                content = compressed(content, kind.rpartition(" ")[2])
            path.write_bytes(content)
        found = _loaded(paths)
        assert len(found) == len(paths)
        for path, one in zip(paths, found, strict=True):
            assert one["peak_bytes"] < 16 * len(whole) + _SPARE_BYTES, path
            assert one["error"] is None or "\n" not in one["error"]
            refused += one["error"] is not None
            path.unlink()
    assert refused > N_FILES // 4


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured by /proc")
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_never_stands_in_memory_beside_its_model(
    tmp_path: Path, make_tokenizer: Callable[..., WhisperTokenizer], kind: str
) -> None:
    content = _whole(tmp_path, make_tokenizer(), kind, 768)
    image = 0  # what is unpacked into memory
    if " in " in kind:
        image, content = len(content), compressed(content, kind.rpartition(" ")[2])
    path = tmp_path / "large.apr"
    path.write_bytes(content)
    (found,) = _loaded([path])
    assert found["error"] is None
    model = found["model_bytes"]
    assert model > 50_000_000
    # beside the model: float32 copies of its largest tensor, a fused one, while it is read
    largest = 3 * 768 * 768 * 4
    assert found["peak_bytes"] < model + 2 * image + 2 * largest + (24 << 20)


_TENSORS = {"a": ((2, 3), 0, f32(*range(6))), "b": ((2,), 0, f32(3, 4))}
_NUMBER = st.one_of(
    st.integers(0, 600),
    st.integers(0, 2**64 - 1),
    st.sampled_from([2**i + d for i in (8, 16, 31, 32, 40, 62, 63) for d in (-1, 0, 1)]),
)


def _fields(bits: dict[str, int]) -> st.SearchStrategy[dict[str, int]]:
    """Some of these fields, each with a number that has so many bits."""
    numbers = {name: _NUMBER.map(lambda n, b=b: n % 2**b) for name, b in bits.items()}  # type: ignore[misc]
    return st.fixed_dictionaries({}, optional=numbers)


def _assert_refused_or_within(path: Path, content: bytes) -> None:
    """Whatever is believed lies in the file and can be read."""
    path.write_bytes(content)
    refusal, file = "", None
    try:
        file = read_apr(path)
    except CheckpointError as error:
        refusal = error.message
    assert "\n" not in refusal
    for name, tensor in file.tensors.items() if file else ():
        assert 0 <= tensor.offset <= tensor.offset + tensor.size <= len(content)
        if file and tensor.encoding.readable:
            assert tuple(file.read(name).shape) == tensor.shape


_SHAPE = st.lists(_NUMBER, max_size=4).map(tuple)
_SECOND = {"count": 32, "metadata_offset": 64, "metadata_size": 32, "index_offset": 64,
           "data_offset": 64}  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    flags=st.integers(0, 0xFFFF),
    header=_fields(_SECOND),
    entry=_fields({"dtype": 8, "offset": 64, "size": 64}),
    shape=st.none() | _SHAPE,
)
def test_whatever_a_second_layout_says_is_refused_or_lies_in_the_file(
    tmp_path: Path, flags: int, header: dict[str, int], entry: dict[str, Any], shape: Any
) -> None:
    entry |= {} if shape is None else {"shape": shape}
    content = V2(dict(_TENSORS), flags=flags, header=header, entries={"a": entry}).build()
    _assert_refused_or_within(tmp_path / "model.apr", content)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    quantization=st.integers(0, 4),
    row=_fields({"offset": 64, "size": 64, "n": 64, "n_dims": 8}),
    shape=st.none() | st.lists(_NUMBER.map(lambda n: n % 2**32), max_size=4).map(tuple),
    sections=st.tuples(st.none() | st.binary(max_size=40), st.none() | st.binary(max_size=40)),
)
def test_whatever_a_first_layout_says_is_refused_or_lies_in_the_file(
    tmp_path: Path,
    quantization: int,
    row: dict[str, Any],
    shape: Any,
    sections: tuple[bytes | None, bytes | None],
) -> None:
    row |= {} if shape is None else {"shape": shape}
    tensors = {name: (shape, data) for name, (shape, _, data) in _TENSORS.items()}
    content = V1(tensors, dict.fromkeys("abcdefghij", 1), quantization, (1.0, 1.0), *sections,
                 rows={"a": row}).build()  # fmt: skip
    _assert_refused_or_within(tmp_path / "model.apr", content)
