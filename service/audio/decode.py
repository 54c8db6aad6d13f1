"""Bytes of an upload to a waveform, within limits.

Knows nothing about HTTP or models. 16 kHz PCM and float WAV is parsed in this process (in a worker
thread: the event loop parses nothing); everything else goes to a child process.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.audio import wav
from service.audio.sandbox import ChildPool
from service.audio.sniff import sniff
from service.errors import AudioTooLong, InvalidAudio, PayloadTooLarge, RequestTimeout

SAMPLE_RATE = 16_000
MIN_SAMPLE_RATE = 8_000
MAX_SAMPLE_RATE = 192_000
_SAMPLE_BYTES = 4
_CHILD_MEMORY_BYTES = 768 << 20
"""Address space of a child beside its input: 230 MB are code and libraries."""


@dataclass(frozen=True, slots=True)
class AudioLimits:
    """What one upload may be and cost.

    Attributes:
        max_upload_bytes: bytes of the file.
        max_audio_s: seconds of audio in it.
        max_channels: channels, all of which are mixed into one.
        max_decoded_bytes: what it may become at its own rate: samples x channels x 4.
        decode_timeout_s: seconds that decoding may take, once it is its turn.
    """

    max_upload_bytes: int
    max_audio_s: float
    max_channels: int
    max_decoded_bytes: int
    decode_timeout_s: float


class AudioDecoder:
    """Decodes uploads; one object per event loop.

    Args:
        limits: of each upload.
        max_children: files that are decoded at once; others wait for their turn.
    """

    def __init__(self, limits: AudioLimits, max_children: int = 2) -> None:
        self._limits = limits
        self._children = ChildPool(max_children, max_idle=min(2, max_children))
        self._parsers = asyncio.Semaphore(max_children)

    async def start(self) -> None:
        """Start child processes ahead of need; they would be started on demand as well.

        Raises:
            Unavailable: if they cannot be started here.
        """
        await self._children.start()

    async def close(self) -> None:
        """End all child processes."""
        await self._children.close()

    async def decode(
        self, data: bytes, on_seconds: Callable[[float], None] | None = None
    ) -> NDArray[np.float32]:
        """Return the waveform of an audio file, f32[n], n >= 1: 16 kHz, mono, in [-1, 1].

        A file that breaks off or is damaged in places gives what can be heard of it, as with
        ffmpeg; it is invalid if nothing can be decoded, or more of it cannot than can.
        Cancelling ends the child process.

        Args:
            data: the file. Only its content says what format it has.
            on_seconds: called with the seconds of audio so far as they are decoded. What it raises
                ends the decoding and is raised here.

        Raises:
            PayloadTooLarge, AudioTooLong: the message names the limit and the value.
            InvalidAudio: not audio, damaged, empty, not finite, or over another limit.
            RequestTimeout: decoding took too long.
            Unavailable: no child process can be started now.
        """
        limits = self._limits
        if len(data) > limits.max_upload_bytes:
            raise PayloadTooLarge(
                f"The upload has {len(data)} bytes; the maximum is {limits.max_upload_bytes}."
            )
        meter = _Meter(limits, on_seconds or (lambda _: None))
        async with self._parsers:
            demuxer, header = await asyncio.to_thread(_identify, data)
            if header is not None:
                check_header(header, limits)
                meter.count(header.n_frames, header.n_frames * header.n_channels * _SAMPLE_BYTES)
                return await asyncio.to_thread(wav.read_samples, data, header)
        return await self._decode_in_child(data, demuxer, meter)

    async def _decode_in_child(
        self, data: bytes, demuxer: str, meter: _Meter
    ) -> NDArray[np.float32]:
        limits = self._limits
        job = {
            "demuxer": demuxer,
            "size": len(data),
            "max_channels": limits.max_channels,
            "min_rate": MIN_SAMPLE_RATE,
            "max_rate": MAX_SAMPLE_RATE,
            "memory_bytes": _CHILD_MEMORY_BYTES + 2 * len(data),
            "cpu_s": math.ceil(limits.decode_timeout_s) + 2,
        }
        samples = bytearray()
        async with self._children.lease() as child, aclosing(child.decode(job, data)) as pieces:
            try:
                async with asyncio.timeout(limits.decode_timeout_s) as deadline:
                    async for pcm in pieces:
                        samples += pcm.samples
                        meter.count(len(samples) // _SAMPLE_BYTES, pcm.decoded_bytes)
            except TimeoutError as error:
                if not deadline.expired():
                    raise
                raise RequestTimeout(
                    f"The audio was not decoded within {limits.decode_timeout_s} s."
                ) from error
        waveform = np.frombuffer(samples, dtype=np.float32)
        if not len(waveform):
            raise InvalidAudio("The upload holds 0 samples of audio.")
        return waveform


def _identify(data: bytes) -> tuple[str, wav.WavFormat | None]:
    """Return the demuxer and, for what is read in this process, the WAV header."""
    demuxer = sniff(data)
    if wav.is_wav(data):
        header = wav.parse(data)
        if header.is_readable and header.sample_rate == SAMPLE_RATE:
            return demuxer, header
    return demuxer, None


def check_header(header: wav.WavFormat, limits: AudioLimits) -> None:
    """Check what the meter does not: channels, and that there is audio at all."""
    if header.n_channels > limits.max_channels:
        raise InvalidAudio(
            f"The upload has {header.n_channels} channels; the maximum is {limits.max_channels}."
        )
    if header.n_frames < 1:
        raise InvalidAudio("The upload holds 0 samples of audio.")


@dataclass(frozen=True, slots=True)
class _Meter:
    """Watches one upload's audio as it arrives."""

    limits: AudioLimits
    on_seconds: Callable[[float], None]

    def count(self, n_samples: int, decoded_bytes: int) -> None:
        """Check the totals so far: samples at 16 kHz, and bytes at the source's rate."""
        seconds = n_samples / SAMPLE_RATE
        if seconds > self.limits.max_audio_s:
            raise AudioTooLong(
                f"The audio is {seconds:.1f} s or longer; the maximum is "
                f"{self.limits.max_audio_s} s."
            )
        if decoded_bytes > self.limits.max_decoded_bytes:
            raise InvalidAudio(
                f"The audio takes {decoded_bytes} bytes or more when decoded; the maximum is "
                f"{self.limits.max_decoded_bytes}."
            )
        self.on_seconds(seconds)
