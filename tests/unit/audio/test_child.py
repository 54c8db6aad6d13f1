"""The decoding child by itself, without the service that starts it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.audio import sandbox

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def short(encode: Make, voice: Make) -> bytes:
    data: bytes = encode(voice(1.0, 16_000), 16_000, "flac", "flac")
    return data


def run_child(data: bytes, **changes: object) -> subprocess.CompletedProcess[bytes]:
    """Run the program by itself, as its parent would."""
    job = {
        "demuxer": "flac", "size": len(data), "max_channels": 8, "min_rate": 8_000,
        "max_rate": 192_000, "memory_bytes": 1 << 30, "cpu_s": 60,
    } | changes  # fmt: skip
    return subprocess.run(
        [sys.executable, "-I", str(sandbox._PROGRAM)],
        input=json.dumps(job).encode() + b"\n" + data,
        capture_output=True,
        check=False,
    )


def test_a_child_is_ended_by_its_limit_on_cpu_time(encode: Make, voice: Make) -> None:
    minute = encode(voice(60.0, 48_000), 48_000, "matroska", "flac")
    result = run_child(minute, demuxer="matroska", cpu_s=0)
    assert result.returncode in (-signal.SIGXCPU, -signal.SIGKILL)


def test_a_child_without_memory_refuses_or_ends(short: bytes) -> None:
    result = run_child(short, memory_bytes=1 << 20)
    assert result.returncode != 0 or b"E" in result.stdout
    assert not result.stdout.endswith(b"D\0\0\0\0")


def test_a_child_leaves_with_its_parent(short: bytes) -> None:
    result = run_child(short[:-10], size=len(short))
    assert (result.returncode, result.stdout) == (0, b"R\0\0\0\0")


@pytest.mark.parametrize("demuxer", ["hls", "concat", "sdp", "mov"])
def test_a_child_opens_nothing_but_what_it_was_given(demuxer: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.wav"
    secret.write_bytes(b"RIFF")
    playlist = {
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{secret}\n#EXT-X-ENDLIST\n",
        "concat": f"ffconcat version 1.0\nfile '{secret}'\n",
        "sdp": "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
        "m=audio 9 RTP/AVP 0\r\n",
        "mov": "nothing",
    }[demuxer]
    result = run_child(playlist.encode(), demuxer=demuxer)
    assert result.stdout.startswith(b"R\0\0\0\0E")
    assert result.returncode == 0
