from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from service.errors import AudioTooLong, InvalidAudio

Decode = Callable[[bytes], NDArray[np.float32]]
Make = Callable[..., Any]

FORMATS = [
    # container, encoder, rate, least correlation with what went in
    ("wav", "pcm_s16le", 44_100, 0.9999),
    ("wav", "pcm_u8", 22_050, 0.999),
    ("wav", "pcm_s24le", 48_000, 0.9999),
    ("wav", "pcm_f32le", 48_000, 0.9999),
    ("wav", "pcm_f64le", 48_000, 0.9999),
    ("wav", "pcm_mulaw", 8_000, 0.999),
    ("wav", "pcm_alaw", 16_000, 0.999),
    ("wav", "adpcm_ms", 16_000, 0.99),
    ("wav", "adpcm_ima_wav", 16_000, 0.99),
    ("w64", "pcm_s16le", 16_000, 0.9999),
    ("aiff", "pcm_s16be", 16_000, 0.9999),
    ("flac", "flac", 44_100, 0.9999),
    ("ogg", "flac", 16_000, 0.9999),
    ("ogg", "libopus", 48_000, 0.98),
    ("webm", "libopus", 48_000, 0.98),
    ("matroska", "flac", 48_000, 0.9999),
    ("matroska", "ac3", 48_000, 0.98),
    ("mp3", "libmp3lame", 44_100, 0.98),
    ("mp3", "libmp3lame", 16_000, 0.98),
    ("adts", "aac", 44_100, 0.98),
    ("mp4", "aac", 44_100, 0.98),
    ("mp4", "libmp3lame", 44_100, 0.98),
    ("ipod", "alac", 44_100, 0.9999),
    ("mov", "pcm_s16le", 44_100, 0.9999),
    ("caf", "pcm_s16le", 44_100, 0.9999),
    ("caf", "alac", 44_100, 0.98),  # its last packet is marked shorter than what it holds
    ("amr", "libopencore_amrnb", 8_000, 0.85),
    ("3gp", "libopencore_amrnb", 8_000, 0.85),
]


def best_correlation(heard: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Return the largest correlation over delays of up to 0.2 s, which codecs add."""
    size = 1 << (len(heard) + len(expected)).bit_length()
    spectrum = np.fft.rfft(heard, size) * np.conj(np.fft.rfft(expected, size))
    by_delay = np.fft.irfft(spectrum, size)
    near = np.concatenate([by_delay[:3200], by_delay[-3200:]])
    return float(near.max() / (np.linalg.norm(heard) * np.linalg.norm(expected)))


@pytest.mark.parametrize(("container", "codec", "rate", "least"), FORMATS)
def test_every_format_on_the_list_is_heard_as_it_was_recorded(
    decode: Decode, encode: Make, voice: Make, container: str, codec: str, rate: int, least: float
) -> None:
    heard = decode(encode(voice(2.0, rate), rate, container, codec))
    assert heard.dtype == np.float32
    assert abs(len(heard) / 16_000 - 2.0) < 0.15
    assert best_correlation(heard, voice(2.0, 16_000)[0]) > least


@pytest.mark.parametrize("rate", [8_000, 11_025, 12_000, 16_000, 22_050, 32_000, 96_000, 192_000])
def test_every_rate_from_8_to_192_khz_gives_the_same_audio(
    decode: Decode, encode: Make, voice: Make, rate: int
) -> None:
    heard = decode(encode(voice(1.0, rate), rate, "wav", "pcm_s16le"))
    assert len(heard) == 16_000
    assert np.abs(heard - voice(1.0, 16_000)[0])[200:-200].max() < 2e-3


@pytest.mark.parametrize("container", ["wav", "flac"])
@pytest.mark.parametrize("n_channels", [1, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_all_channels_are_mixed_by_their_mean(
    decode: Decode, encode: Make, voice: Make, container: str, n_channels: int, rate: int
) -> None:
    codec = {"wav": "pcm_s16le", "flac": "flac"}[container]
    heard = decode(encode(voice(0.5, rate, n_channels), rate, container, codec))
    expected = voice(0.5, 16_000, n_channels).mean(axis=0)
    assert np.abs(heard - expected)[200:-200].max() < 2e-3


@pytest.mark.parametrize(("container", "codec"), [("mp4", "aac"), ("matroska", "libopus")])
@pytest.mark.parametrize("n_channels", [6, 8])
def test_many_channels_of_a_planar_decoder_are_mixed(
    decode: Decode, encode: Make, voice: Make, container: str, codec: str, n_channels: int
) -> None:
    heard = decode(encode(voice(1.0, 48_000, n_channels), 48_000, container, codec))
    expected = voice(1.0, 16_000, n_channels).mean(axis=0)
    assert best_correlation(heard, expected) > 0.9


def test_wav_in_process_and_flac_in_a_child_give_the_same_bits(
    decode: Decode, encode: Make, voice: Make
) -> None:
    samples = voice(1.0, 16_000, 2)
    in_process = decode(encode(samples, 16_000, "wav", "pcm_s16le"))
    in_child = decode(encode(samples, 16_000, "flac", "flac"))
    np.testing.assert_array_equal(in_process, in_child)


@pytest.mark.parametrize(("container", "codec"), [("mp4", "aac"), ("matroska", "flac")])
def test_the_sound_of_a_film_is_transcribed(
    decode: Decode, encode: Make, voice: Make, container: str, codec: str
) -> None:
    data = encode(voice(1.0, 44_100), 44_100, container, codec, video=True)
    assert best_correlation(decode(data), voice(1.0, 16_000)[0]) > 0.95


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 192_000])
def test_one_sample_is_audio(decode: Decode, wav: Make, rate: int) -> None:
    heard = decode(wav(struct.pack("<h", 1000), rate=rate))
    assert len(heard) == -(-16_000 // rate)
    assert np.isfinite(heard).all()


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_no_sample_is_not_audio(decode: Decode, wav: Make, rate: int) -> None:
    with pytest.raises(InvalidAudio):
        decode(wav(b"", rate=rate))


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_silence_is_zeros(decode: Decode, wav: Make, rate: int) -> None:
    heard = decode(wav(bytes(2 * rate), rate=rate))
    assert len(heard) == 16_000
    assert not heard.any()


@pytest.mark.parametrize("rate", [16_000, 44_100])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_refused(
    decode: Decode, wav: Make, rate: int, value: float
) -> None:
    samples = np.zeros(1000, dtype="<f4")
    samples[700] = value
    with pytest.raises(InvalidAudio, match=r"not .*finite"):
        decode(wav(samples.tobytes(), tag=3, bits=32, rate=rate))


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_floats_over_full_scale_are_clipped(decode: Decode, wav: Make, rate: int) -> None:
    heard = decode(wav(np.full(rate, 3.0, dtype="<f4").tobytes(), tag=3, bits=32, rate=rate))
    assert heard.max() == 1.0
    assert heard[8000] > 0.99


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (b"", "0 bytes"),
        (b"Hello, this is not audio.\n" * 50, "text"),
        (bytes(5000), "5000 bytes"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 9, "89 50 4e 47"),
        (b"#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n", "playlist"),
        (b"ffconcat version 1.0\nfile /etc/hostname\n", "playlist"),
        (b"file '/etc/hostname'\n", "playlist"),
        (b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nm=audio 9 RTP/AVP 0\r\n", "playlist"),
        (b"<?xml version='1.0'?><MPD></MPD>", "playlist"),
    ],
)
def test_what_is_not_audio_is_refused_by_what_it_looks_like(
    decode: Decode, data: bytes, names: str
) -> None:
    with pytest.raises(InvalidAudio, match=names):
        decode(data)


@pytest.mark.parametrize(
    "head",
    [b"fLaC", b"OggS", b"\x1a\x45\xdf\xa3", b"caff", b"FORM\0\0\1\0AIFF",
     b"\0\0\0\x18ftypmp42", b"ID3\4\0\0\0\0\0\0\xff\xfb\x90\0", b"\xff\xf1\x50\x80\x02\x1f\xfc",
     b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb", b"RF64\xff\xff\xff\xffWAVE", b"RIFF\0\0\0\0WAVE"],
)  # fmt: skip
@pytest.mark.parametrize("rest", [b"", b"#EXTM3U\nhttp://127.0.0.1:9/a.ts\n" * 40])
def test_a_true_beginning_with_nonsense_after_it_is_invalid_audio(
    decode: Decode, head: bytes, rest: bytes
) -> None:
    with pytest.raises(InvalidAudio):
        decode(head + rest)


@pytest.mark.parametrize(
    ("container", "codec"),
    [("flac", "flac"), ("mp3", "libmp3lame"), ("ogg", "libopus"), ("webm", "libopus"),
     ("adts", "aac"), ("wav", "pcm_s16le"), ("aiff", "pcm_s16be")],
)  # fmt: skip
def test_a_file_that_breaks_off_is_heard_up_to_there(
    decode: Decode, encode: Make, voice: Make, container: str, codec: str
) -> None:
    whole = encode(voice(4.0, 48_000), 48_000, container, codec)
    heard = decode(whole[: len(whole) // 2])
    assert 1.0 < len(heard) / 16_000 < 3.0
    expected = voice(4.0, 16_000)[0][: len(heard)]
    assert best_correlation(heard, expected) > 0.95


def test_an_mp4_that_breaks_off_before_its_index_is_refused(
    decode: Decode, encode: Make, voice: Make
) -> None:
    whole = encode(voice(2.0, 44_100), 44_100, "mp4", "aac")
    with pytest.raises(InvalidAudio):
        decode(whole[: len(whole) // 2])


def test_damage_in_the_middle_does_not_lose_the_rest(
    decode: Decode, encode: Make, voice: Make
) -> None:
    data = bytearray(encode(voice(4.0, 48_000), 48_000, "mp3", "libmp3lame"))
    middle = len(data) // 2
    data[middle : middle + 700] = bytes(700)
    assert abs(len(decode(bytes(data))) / 16_000 - 4.0) < 0.3


@pytest.mark.parametrize("container", ["flac", "mp3", "ogg", "mp4", "webm", "caf", "aiff", "w64"])
def test_random_damage_is_heard_or_refused(
    decode: Decode, encode: Make, voice: Make, container: str
) -> None:
    codec = {"flac": "flac", "mp3": "libmp3lame", "ogg": "libopus", "mp4": "aac", "webm": "libopus",
             "caf": "pcm_s16le", "aiff": "pcm_s16be", "w64": "pcm_s16le"}[container]  # fmt: skip
    data = encode(voice(1.0, 48_000), 48_000, container, codec)
    random = np.random.default_rng(len(container))
    for _ in range(3):
        damaged = bytearray(data)
        for at in random.integers(12, len(data), size=len(data) // 50):
            damaged[at] = random.integers(256)
        try:
            heard = decode(bytes(damaged))
        except (InvalidAudio, AudioTooLong):
            continue
        assert np.isfinite(heard).all()
        assert np.abs(heard).max() <= 1.0
