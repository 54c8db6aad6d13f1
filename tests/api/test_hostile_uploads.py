"""Uploads that were made to do harm: each is answered, and nothing else notices."""

from __future__ import annotations

import os
import signal
import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.api.live import (
    DEADLINE_S,
    Limits,
    LiveServer,
    Parts,
    assert_envelope,
    noise,
    services_of,
    until,
    wav,
)
from tests.api.test_leaving import stop_waiting_children

SHORT = wav(noise(0.5))
MAX_AUDIO_S = 60.0
AMR_FRAME = b"\x04" + bytes(12)
"""20 ms of silence: two hours are less than five megabytes, and 460 MB of samples."""


@pytest.fixture(scope="module")
def bounded(parts: Parts) -> Iterator[LiveServer]:
    with LiveServer(services_of(parts, Limits(max_audio_s=MAX_AUDIO_S))) as live:
        yield live


def patched(at: int, form: str, value: int) -> bytes:
    """Return a WAV file whose header says something else there."""
    data = bytearray(SHORT)
    struct.pack_into(form, data, at, value)
    return bytes(data)


LIES = {
    "no channels": patched(22, "<H", 0),
    "65535 channels": patched(22, "<H", 65_535),
    "no rate": patched(24, "<I", 0),
    "the largest rate": patched(24, "<I", 2**32 - 1),
    "frames of no bytes": patched(32, "<H", 0),
    "no bits": patched(34, "<H", 0),
    "65535 bits": patched(34, "<H", 65_535),
    "a format of 4 GB": patched(16, "<I", 2**32 - 1),
    "8 channels of 192 kHz in a second of 16 kHz": patched(22, "<H", 8)[:24]
    + struct.pack("<I", 192_000) + SHORT[28:],
}  # fmt: skip


@pytest.mark.parametrize("audio", LIES.values(), ids=LIES)
def test_a_header_that_lies_about_its_samples_is_a_400(live: LiveServer, audio: bytes) -> None:
    assert assert_envelope(live.transcribe(audio), 400)["code"] == "invalid_audio"


@pytest.mark.parametrize("length", [0, 10, 2**31 - 1, 2**32 - 1])
@pytest.mark.parametrize("at", [4, 40], ids=["of the file", "of its data"])
def test_a_header_that_lies_about_a_length_is_what_is_there(
    live: LiveServer, at: int, length: int
) -> None:
    done = live.transcribe(patched(at, "<I", length), language="en", stream=False).json()
    whole_or_what_it_says = {0.5, length / 2 / 16_000 if at == 40 else 0.5}
    assert done["duration_s"] in whole_or_what_it_says


def test_hours_of_silence_in_a_few_megabytes_are_refused_as_they_unfold(
    bounded: LiveServer,
) -> None:
    bomb = b"#!AMR\n" + AMR_FRAME * (2 * 3600 * 50)
    assert len(bomb) < 5_000_000
    error = assert_envelope(bounded.transcribe(bomb), 400)
    assert error["code"] == "audio_too_long"
    assert f"the maximum is {MAX_AUDIO_S}" in error["message"]


@pytest.mark.parametrize(
    ("name", "audio"),
    [
        ("talk.wav", b"#EXTM3U\n#EXTINF:9,\nfile:///etc/passwd\n"),
        ("talk.flac", b"ffconcat version 1.0\nfile /etc/passwd\n"),
        ("talk.mp3", b"FLV\x01\x05\x00\x00\x00\x09" + bytes(200)),
        ("talk.ogg", b".snd" + struct.pack(">5I", 24, 3200, 3, 16_000, 1) + bytes(3200)),
        ("talk.wav", b"RIFF" + struct.pack("<I", 400) + b"AVI LIST" + bytes(400)),
        ("talk.m4a", b"\x47" + bytes(187) + b"\x47" + bytes(187)),
    ],
    ids=["HLS", "concat", "FLV", "AU", "AVI", "MPEG-TS"],
)
def test_a_format_off_the_list_under_an_allowed_name_is_a_400(
    live: LiveServer, name: str, audio: bytes
) -> None:
    response = live.client.post("/transcribe", files={"file": (name, audio, "audio/wav")})
    assert assert_envelope(response, 400)["code"] == "invalid_audio"
    assert "passwd" not in response.text


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "..\\..\\x", "a" * 3000, "|id"]
)
def test_a_file_name_is_not_looked_at(live: LiveServer, name: str) -> None:
    response = live.client.post(
        "/transcribe", files={"file": (name, SHORT)}, data={"stream": "false", "language": "en"}
    )
    assert response.json()["duration_s"] == 0.5


def test_thousands_of_parts_are_a_400_that_names_the_limit(live: LiveServer) -> None:
    parts = [(f"part{number}", (None, "x")) for number in range(3000)]
    error = assert_envelope(live.client.post("/transcribe", files=parts), 400)
    assert "more than 256 parts" in error["message"]


@pytest.mark.parametrize("where", ["name", "value"])
def test_a_huge_field_is_refused(live: LiveServer, where: str) -> None:
    huge = "x" * 200_000
    data = {huge: "1"} if where == "name" else {"initial_prompt": huge}
    response = live.client.post("/transcribe", files={"file": SHORT}, data=data)
    assert response.status_code in {400, 413}
    error = assert_envelope(response, response.status_code)
    assert len(error["message"]) < 500
    assert len(error["param"] or "") < 500


def test_more_than_the_content_length_is_no_part_of_the_file(live: LiveServer) -> None:
    head = (
        "POST /transcribe?stream=false&language=en HTTP/1.1\r\nhost: x\r\n"
        f"content-length: {len(SHORT)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", live.port), timeout=DEADLINE_S) as connection:
        connection.sendall(head.encode() + SHORT + b"and more that nobody asked for\r\n\r\n")
        answer = b""
        while piece := connection.recv(65_536):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b'"duration_s":0.5,' in answer
    assert answer.count(b"HTTP/1.1 ") == 2
    assert b"HTTP/1.1 400 " in answer


def test_an_endless_body_is_a_413_where_it_passes_the_limit(live: LiveServer) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while True:
            yield bytes(50_000)
            sent += 50_000

    assert_envelope(live.client.post("/transcribe", content=endless()), 413)
    assert sent > 2_000_000


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_decoder_that_is_killed_over_a_file_is_its_400_and_nobody_elses(
    live: LiveServer, how: signal.Signals
) -> None:
    alone = live.events(SHORT, language="en")[-1]["text"]
    uploads = live.metric("earshot_stage_seconds_count", stage="upload")
    stopped = stop_waiting_children(live)
    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(live.transcribe, wav(noise(1.0, rate=8_000), 8_000))
        until(
            lambda: live.metric("earshot_stage_seconds_count", stage="upload") == uploads + 1,
            "the upload is there",
        )
        until(lambda: bool(live.services.audio_decoder._children._active), "a child has it")
        assert live.events(SHORT, language="en")[-1]["text"] == alone
        for child in stopped:
            os.kill(child, how)
            if how is not signal.SIGKILL:  # which also a child that is stopped dies of at once
                os.kill(child, signal.SIGCONT)
        error = assert_envelope(killed.result(), 400)
    assert error["code"] == "invalid_audio"
    assert live.transcribe(wav(noise(1.0, rate=8_000), 8_000)).status_code == 200
