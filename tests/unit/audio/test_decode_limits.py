"""The limits of decoding: each names itself and the value, and holds while the audio arrives."""

from __future__ import annotations

import asyncio
import dataclasses
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.audio.decode import AudioDecoder, AudioLimits
from service.errors import AudioTooLong, EngineBusy, InvalidAudio, PayloadTooLarge, RequestTimeout

Decode = Callable[[bytes], NDArray[np.float32]]
Make = Callable[..., Any]


def decode_once(
    limits: AudioLimits, data: bytes, on_seconds: Callable[[float], None] | None = None
) -> NDArray[np.float32]:
    async def scenario() -> NDArray[np.float32]:
        decoder = AudioDecoder(limits, max_children=1)
        try:
            return await decoder.decode(data, on_seconds)
        finally:
            await decoder.close()

    return asyncio.run(scenario())


def test_too_many_bytes_name_the_limit_and_the_value(limits: AudioLimits) -> None:
    small = dataclasses.replace(limits, max_upload_bytes=1000)
    with pytest.raises(PayloadTooLarge, match=r"1001 bytes.* 1000"):
        decode_once(small, bytes(1001))


@pytest.mark.parametrize(("container", "codec"), [("wav", "pcm_s16le"), ("flac", "flac")])
def test_too_many_seconds_name_the_limit_and_the_value(
    limits: AudioLimits, encode: Make, voice: Make, container: str, codec: str
) -> None:
    small = dataclasses.replace(limits, max_audio_s=2.5)
    with pytest.raises(AudioTooLong, match=r"[34]\.\d s.* 2\.5 s"):
        decode_once(small, encode(voice(4.0, 16_000), 16_000, container, codec))


@pytest.mark.parametrize(("container", "codec"), [("wav", "pcm_s16le"), ("flac", "flac")])
def test_too_many_decoded_bytes_name_the_limit_and_the_value(
    limits: AudioLimits, encode: Make, voice: Make, container: str, codec: str
) -> None:
    small = dataclasses.replace(limits, max_decoded_bytes=100_000)
    with pytest.raises(InvalidAudio, match=r"\d+ bytes or more .* 100000"):
        decode_once(small, encode(voice(1.0, 16_000, 2), 16_000, container, codec))


@pytest.mark.parametrize(("container", "codec"), [("wav", "pcm_s16le"), ("flac", "flac")])
def test_too_many_channels_name_the_limit_and_the_value(
    limits: AudioLimits, encode: Make, voice: Make, container: str, codec: str
) -> None:
    small = dataclasses.replace(limits, max_channels=2)
    with pytest.raises(InvalidAudio, match=r"6 channels.* 2\."):
        decode_once(small, encode(voice(0.1, 16_000, 6), 16_000, container, codec))


@pytest.mark.parametrize("rate", [0, 1, 7_999, 192_001, 4_294_967_295])
def test_a_rate_that_no_recording_has_is_refused(decode: Decode, wav: Make, rate: int) -> None:
    data = bytearray(wav(bytes(3200), rate=16_000))
    data[24:28] = struct.pack("<I", rate)
    with pytest.raises(InvalidAudio):
        decode(bytes(data))


def test_a_flac_header_that_claims_the_largest_rate_costs_nothing(
    decode: Decode, encode: Make, voice: Make
) -> None:
    data = bytearray(encode(voice(0.5, 48_000, 8), 48_000, "flac", "flac"))
    info = int.from_bytes(data[18:26], "big")  # 20 bits of rate, 3 of channels, 5 of depth, 36
    assert info >> 44 == 48_000
    data[18:26] = (info & (1 << 44) - 1 | 655_350 << 44).to_bytes(8, "big")
    assert len(decode(bytes(data))) == 8_000  # each block says its own rate, and that counts


def test_time_to_decode_is_limited(limits: AudioLimits, encode: Make, voice: Make) -> None:
    small = dataclasses.replace(limits, decode_timeout_s=0.001)
    data = encode(voice(60.0, 48_000), 48_000, "flac", "flac")
    with pytest.raises(RequestTimeout, match=r"0\.001 s"):
        decode_once(small, data)


@pytest.mark.parametrize(("container", "codec"), [("wav", "pcm_s16le"), ("flac", "flac")])
def test_seconds_are_reported_up_to_the_total(
    limits: AudioLimits, encode: Make, voice: Make, container: str, codec: str
) -> None:
    seconds: list[float] = []
    heard = decode_once(
        limits, encode(voice(7.0, 16_000), 16_000, container, codec), seconds.append
    )
    assert seconds == sorted(seconds)
    assert seconds[-1] == len(heard) / 16_000 == 7.0


@pytest.mark.parametrize(("container", "codec"), [("wav", "pcm_s16le"), ("flac", "flac")])
def test_what_on_seconds_raises_ends_the_decoding(
    limits: AudioLimits, encode: Make, voice: Make, container: str, codec: str
) -> None:
    def refuse(seconds: float) -> None:
        raise EngineBusy(f"no room for {seconds} s")

    with pytest.raises(EngineBusy):
        decode_once(limits, encode(voice(3.0, 16_000), 16_000, container, codec), refuse)


def test_two_hours_of_silence_in_five_megabytes_are_refused_as_they_unfold(
    limits: AudioLimits,
) -> None:
    bomb = b"#!AMR\n" + (b"\x04" + bytes(12)) * (2 * 3600 * 50)  # frames of 20 ms
    seconds: list[float] = []
    with pytest.raises(AudioTooLong, match=r"the maximum is 60\.0 s"):
        decode_once(dataclasses.replace(limits, max_audio_s=60.0), bomb, seconds.append)
    assert 0 < max(seconds) <= 60.0, "more than the limit was kept"
