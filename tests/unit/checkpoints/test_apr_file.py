"""Both `.apr` layouts as files: what their bytes mean, and what is said of those that lie."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import lz4.block
import pytest
import torch
import zstandard

from service.checkpoints.apr import read_apr
from service.checkpoints.apr.sections import read_vocabulary
from service.errors import CheckpointError
from tests.unit.checkpoints.apr_bytes import V1, V2, f32, repaired

NUMBERS = dict.fromkeys(
    ("vocab", "actx", "astate", "ahead", "alayer", "tctx", "tstate", "thead", "tlayer", "mels"), 1
)


def _write(tmp_path: Path, content: bytes, name: str = "model.apr") -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def _refusal(tmp_path: Path, content: bytes) -> str:
    path = _write(tmp_path, content)
    with pytest.raises(CheckpointError) as caught:
        read_apr(path)
    message = caught.value.message
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def test_every_tensor_of_the_fixtures_has_the_digests_of_its_manifest(shared: Path) -> None:
    checked = 0
    for version in (1, 2):
        manifest = json.loads((shared / f"fixtures/apr/manifest_v{version}.json").read_text())
        for name, said in manifest.items():
            if not said.get("digests"):
                continue
            file = read_apr(shared / "fixtures/apr" / name)
            assert file.version == version
            assert len(file.tensors) == said["n_tensors"]
            assert all(checksum.holds for checksum in file.checksums())
            for tensor_name, digest in said["digests"].items():
                values = file.read(tensor_name).double().flatten()
                assert values.numel() == digest["n"]
                found = [*values[:4].tolist(), values[-1].item(), values.sum().item()]
                expected = [*digest["first"], digest["last"], digest["sum"]]
                assert found == pytest.approx(expected, abs=1e-6), (name, tensor_name)
                assert values.abs().sum().item() == pytest.approx(digest["abs_sum"])
                checked += 1
    assert checked > 30


@pytest.mark.parametrize(
    ("dtype", "data", "encoding", "expected"),
    [
        (0, f32(1.5, -2), "F32", [1.5, -2]),
        (1, struct.pack("<2e", 1.5, -2), "F16", [1.5, -2]),
        (3, struct.pack("<2d", 1.5, -2), "F64", [1.5, -2]),
        (6, struct.pack("<2b", 3, -128), "I8", [3, -128]),
        (30, f32(1.5)[2:] + f32(-2)[2:], "BF16", [1.5, -2]),
        (2, f32(1.5)[2:] + f32(-2)[2:], "BF16", [1.5, -2]),
        (129, f32(0.5) + struct.pack("<2b", 3, -127), "AprQ8", [1.5, -63.5]),
        (9, f32(0.5) + struct.pack("<2b", 3, -127), "AprQ8", [1.5, -63.5]),
        (128, struct.pack("<e", 0.5) + b"\x1f" + bytes(15), "AprQ4", [3.5, -3.5]),
        (8, struct.pack("<e", 0.5) + b"\x1f" + bytes(15), "AprQ4", [3.5, -3.5]),
        (128, struct.pack("<e", 6e-5) + b"\x1f" + bytes(15), "AprQ4", [0, 0]),
        (128, struct.pack("<e", float("nan")) + b"\x1f" + bytes(15), "AprQ4", [0, 0]),
    ],
)
def test_an_encoding_of_the_second_layout(
    tmp_path: Path, dtype: int, data: bytes, encoding: str, expected: list[float]
) -> None:
    file = read_apr(_write(tmp_path, V2({"t": ((2,), dtype, data)}).build()))
    assert file.tensors["t"].encoding.name == encoding
    assert file.read("t").tolist() == expected


def test_aprq4_blocks_run_over_the_flattened_tensor(tmp_path: Path) -> None:
    blocks = b"".join(
        struct.pack("<e", scale) + bytes([0x98] * 16) for scale in (1.0, 2.0)
    )  # low nibble 8 is 0, high nibble 9 is 1 scale
    file = read_apr(_write(tmp_path, V2({"t": ((3, 11), 128, blocks)}).build()))
    values = file.read("t")
    assert values.shape == (3, 11)
    assert values.flatten()[:32].tolist() == [0, 1] * 16
    assert values[2, 10] == 0  # element 32 is the first of the second block


@pytest.mark.parametrize("dtype", [2, 12, 14])
def test_gguf_blocks_are_known_by_their_size_and_not_read(tmp_path: Path, dtype: int) -> None:
    data = bytes({2: 8 * 18, 12: 144, 14: 210}[dtype])
    file = read_apr(_write(tmp_path, V2({"t": ((256,), dtype, data)}).build()))
    with pytest.raises(CheckpointError, match=r"t is stored as Q[46]_., which Earshot cannot read"):
        file.read("t")


def test_tensors_are_read_in_place(tmp_path: Path) -> None:
    path = _write(tmp_path, V2({"t": ((2,), 0, f32(1, 2))}).build())
    file = read_apr(path)
    assert file.read("t").data_ptr() == file.read("t").data_ptr()
    file.read("t").mul_(0)  # a private copy of the page
    assert read_apr(path).read("t").tolist() == [1, 2]


@pytest.mark.parametrize(
    ("quantization", "scales", "data", "expected"),
    [
        (0, (), f32(1.5, -2), [1.5, -2]),
        (1, (), struct.pack("<2e", 1.5, -2), [1.5, -2]),
        (2, (0.5,), struct.pack("<2b", 3, -127), [1.5, -63.5]),
    ],
)
def test_an_encoding_of_the_first_layout(
    tmp_path: Path, quantization: int, scales: tuple[float, ...], data: bytes, expected: list[float]
) -> None:
    for name in ("a", "abcde"):  # nothing is aligned
        v1 = V1({name: ((2,), data)}, NUMBERS, quantization, scales)
        assert read_apr(_write(tmp_path, v1.build())).read(name).tolist() == expected


_TWO: dict[str, Any] = {"a": ((2,), 0, f32(1, 2)), "b": ((2,), 0, f32(3, 4))}


@pytest.mark.parametrize("magic", [b"APR\0", b"APR2"])
@pytest.mark.parametrize("compression", ["lz4", "zstd", "a lie"])
def test_compressed_files_are_read_and_false_flags_passed_over(
    tmp_path: Path, compression: str, magic: bytes
) -> None:
    content = V2(_TWO, flags=0x402 if compression == "zstd" else 0x401, magic=magic).build()
    head, body = content[:64], content[64:]
    if compression == "lz4":
        body = struct.pack("<I", len(body)) + lz4.block.compress(body, store_size=False)
    elif compression == "zstd":
        body = zstandard.ZstdCompressor().compress(body)
    file = read_apr(_write(tmp_path, head + body))
    assert file.read("b").tolist() == [3, 4]
    assert all(sum_.holds for sum_ in file.checksums())


@pytest.mark.parametrize("flag", [1, 2])
def test_a_compressed_bomb_is_not_unpacked(tmp_path: Path, flag: int) -> None:
    head, body = V2(_TWO, flags=0x400 | flag).build()[:64], bytes(100_000_000)
    if flag == 1:
        body = struct.pack("<I", len(body)) + lz4.block.compress(body, store_size=False)
    else:
        body = zstandard.ZstdCompressor().compress(body)
    assert "at most 16 times the file" in _refusal(tmp_path, head + body)


@pytest.mark.parametrize("flag", [1, 2])
@pytest.mark.parametrize("body", [b"", b"\1", b"\0\1\0\0 not compressed at all"])
def test_a_damaged_compressed_file_is_refused(tmp_path: Path, flag: int, body: bytes) -> None:
    head = V2(_TWO, flags=0x400 | flag).build()[:64]
    assert "damaged" in _refusal(tmp_path, head + body)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"major": 3}, "version is 3.0, expected at most 2"),
        ({"flags": 0x404}, "encrypted"),
        ({"flags": 0x800}, "column-major, expected row-major"),
        ({"header": {"count": 3}}, "the name in entry 2 of the index has 0 bytes"),
        ({"header": {"count": 0xFFFFFFFF}}, "tensor_count is 4294967295, expected 0 to "),
        ({"header": {"metadata_offset": 2**64 - 1}}, "metadata_offset is 18446744073709551615"),
        ({"header": {"metadata_size": 2**32 - 1}}, "metadata_size is 4294967295"),
        ({"header": {"index_offset": 2**63}}, "tensor_index_offset is 9223372036854775808"),
        ({"header": {"index_offset": 64}}, "tensor_index_offset is 64"),
        ({"header": {"data_offset": 2**62}}, "data_offset is 4611686018427387904"),
        ({"order": ["b", "a"]}, "not sorted: a after b"),
        ({"raw_metadata": b"{nonsense"}, "the metadata is not JSON"),
        ({"raw_metadata": b"[" * 100_000}, "the metadata is not JSON"),
        ({"raw_metadata": b'{"a": ' + b"9" * 5000 + b"}"}, "the metadata is not JSON"),
        ({"raw_metadata": b"[1]"}, "must be a JSON object, found list"),
        ({"raw_metadata": b'{"a": "\xff"}'}, "the metadata is not JSON"),
        ({"entries": {"b": {"name": b"a"}}}, "two tensors are called a"),
        ({"entries": {"b": {"name": b"\xff"}}}, "must be UTF-8"),
        ({"entries": {"b": {"name": b"b" * 257}}}, "257 bytes, expected 1 to 256"),
        ({"entries": {"b": {"offset": 4}}}, "a and b overlap at byte"),
        ({"entries": {"b": {"offset": 2**64 - 4}}}, "b needs the bytes"),
        ({"entries": {"b": {"offset": 4096}}}, "truncated or damaged: b needs the bytes"),
        ({"entries": {"b": {"size": 4}}}, "size of b is 4, expected 8 for [2] in F32"),
        ({"entries": {"b": {"size": 2**64 - 1}}}, "expected 8 for [2] in F32"),
        ({"entries": {"b": {"dtype": 77}}}, "dtype of b is 77, expected one of 0, 1, 2, 3"),
        ({"entries": {"b": {"shape": (2**63, 2**63)}}}, "the shape of b is"),
        ({"entries": {"b": {"shape": (0, 2**63)}}}, "the shape of b is"),
        ({"entries": {"b": {"shape": (1,) * 9}}}, "ndim of b is 9, expected at most 8"),
    ],
)
def test_a_second_layout_that_lies_says_where(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    assert message in _refusal(tmp_path, V2(_TWO, **changes).build())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "version is 2, expected 0 or 1"),
        ({"compressed": 1}, "compressed is 1, expected 0"),
        ({"compressed": ord("{")}, "APR1 with a JSON index"),
        ({"quantization": 3}, "quantization is 3 (int4)"),
        ({"quantization": 9}, "quantization is 9, expected 0 (f32), 1 (f16) or 2 (int8)"),
        ({"rows": {"b": {"n": 3}}}, "n_elements of b is 3, its shape [2] has 2"),
        ({"rows": {"b": {"size": 2**64 - 1}}}, "size of b is 18446744073709551615, expected 8"),
        ({"rows": {"b": {"offset": 2**64 - 8}}}, "b needs the bytes"),
        ({"rows": {"b": {"offset": 0}}}, "a and b overlap"),
        ({"rows": {"b": {"n_dims": 5}}}, "n_dims of b is 5, expected at most 4"),
        ({"rows": {"b": {"shape": (2**32 - 1,) * 4, "n_dims": 4}}}, "the shape of b is"),
        ({"vocabulary": b"\1\0"}, "the vocabulary has 2 bytes"),
        ({"filters": struct.pack("<II", 80, 201)}, "the filterbank says [80, 201] in 8 bytes"),
        ({"filters": struct.pack("<II", 2**31, 201)}, "the filterbank says [2147483648, 201]"),
    ],
)
def test_a_first_layout_that_lies_says_where(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    tensors = {"a": ((2,), f32(1, 2)), "b": ((2,), f32(3, 4))}
    content = V1(tensors, NUMBERS, **changes).build()
    path = _write(tmp_path, content)
    with pytest.raises(CheckpointError) as caught:
        _tokens(path)
    assert message in caught.value.message


def _tokens(path: Path) -> list[bytes]:
    """The embedded vocabulary, which is read only when it is needed."""
    return read_vocabulary(path, read_apr(path).vocabulary or memoryview(b""))[0]


@pytest.mark.parametrize("keep", [0, 3, 4, 20, 63, 64, 100, 200, 300])
@pytest.mark.parametrize("version", [1, 2])
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, keep: int, version: int) -> None:
    tensors = {"a": ((32,), f32(*range(32))), "b": ((32,), f32(*range(32)))}
    if version == 1:
        content = V1(tensors, NUMBERS).build()
    else:
        content = V2({name: (s, 0, data) for name, (s, data) in tensors.items()}).build()
    assert keep < len(content)
    _refusal(tmp_path, content[:keep])


def test_a_changed_byte_is_seen_by_the_checksums(tmp_path: Path) -> None:
    content = bytearray(V2(_TWO).build())
    content[-8] ^= 1
    file = read_apr(_write(tmp_path, bytes(content)))
    assert [c.name for c in file.checksums() if not c.holds] == ["file"]
    content[45] ^= 1
    both = read_apr(_write(tmp_path, bytes(content))).checksums()
    assert [c.name for c in both if not c.holds] == ["header", "file"]
    assert all(c.holds for c in read_apr(_write(tmp_path, repaired(bytes(content)))).checksums())


@pytest.mark.parametrize("prefixed", [False, True])
def test_a_filterbank_stands_raw_or_behind_its_extents(tmp_path: Path, prefixed: bool) -> None:
    filters = torch.rand(80, 201)
    data = filters.numpy().tobytes()
    if prefixed:
        data = struct.pack("<II", 80, 201) + data
    file = read_apr(_write(tmp_path, V2({"__mel_filters__": ((80, 201), 0, data)}).build()))
    assert file.filters is not None
    assert torch.equal(file.filters, filters)
    assert torch.equal(file.read("__mel_filters__"), filters)


def test_a_filterbank_of_another_shape_is_refused(tmp_path: Path) -> None:
    for dtype, shape, data in ((1, (402,), bytes(804)), (0, (2, 100), bytes(800))):
        content = V2({"__mel_filters__": (shape, dtype, data)}).build()
        assert "201]" in _refusal(tmp_path, content)
