"""A model in several `.apr` files: found, put together, and refused where they do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.checkpoints.apr.source import AprSource
from service.errors import CheckpointError
from tests.unit.checkpoints.apr_bytes import V2, f32


def _write(tmp_path: Path, content: bytes, name: str) -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def _shard(i: int, index: int, count: int = 2, pattern: str | None = None) -> bytes:
    sharding = {"shard_count": count, "shard_index": index, "pattern": pattern}
    return V2({f"t{i}": ((1,), 0, f32(i))}, metadata={"sharding": sharding}, flags=0x410).build()


@pytest.mark.parametrize("first", [0, 1])
def test_any_shard_brings_the_others(tmp_path: Path, first: int) -> None:
    for i in range(2):
        path = _write(tmp_path, _shard(i, i), f"w-{first + i:05d}-of-00002.apr")
    source = AprSource(path)
    assert [source.read(name).item() for name in ("t0", "t1")] == [0, 1]


def test_shards_are_found_by_their_pattern(tmp_path: Path) -> None:
    pattern = "part-{:05d}-of-{:05d}.apr"
    for i in range(2):
        path = _write(tmp_path, _shard(i, i, pattern=pattern), f"part-{i:05d}-of-00002.apr")
    assert set(AprSource(path).infos) == {"t0", "t1"}


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"w-1-of-2.apr": _shard(0, 0)}, "its shard w-2-of-2.apr is missing"),
        ({"w-1-of-2.apr": _shard(0, 0), "w-2-of-2.apr": _shard(1, 0)}, "two are equal"),
        ({"w-1-of-2.apr": _shard(0, 0), "w-2-of-2.apr": _shard(0, 1)}, "t0 stands in"),
        ({"w-1-of-2.apr": _shard(0, 0, 10**9)}, "shard_count is 1000000000"),
        ({"w.apr": _shard(0, 0, pattern="../{}-{}.apr")}, "names no file beside it"),
        ({"w.apr": _shard(0, 0)}, "says what the others are called"),
    ],
)
def test_shards_that_do_not_belong_together_are_refused(
    tmp_path: Path, contents: dict[str, bytes], message: str
) -> None:
    paths = [_write(tmp_path, content, name) for name, content in contents.items()]
    with pytest.raises(CheckpointError) as caught:
        AprSource(paths[0])
    assert message in caught.value.message
