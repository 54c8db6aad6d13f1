"""The decoding child: one audio file on stdin, 16 kHz mono PCM on stdout, then the end.

A program, executed by path for one file (`service/audio/sandbox.py` is its parent). It knows
nothing about the service and imports neither it nor torch: what it must hold is PyAV and numpy.
Input: a line of JSON (`Job`), then the file's bytes, which it keeps in memory, since mp4 seeks.
Output: frames of a kind (one byte), a length (u32 little endian) and so many bytes:

    R  ready: imports are done, the job may come
    P  PCM: u64 bytes decoded so far (samples x channels x 4 at the source's rate), then f32 samples
    E  error: what is wrong with the file, in UTF-8; the last frame
    D  done; the last frame

Damage: packets that do not decode are skipped, and a file that breaks off ends where it breaks
off, as with ffmpeg: what can be heard is transcribed. It is refused if nothing decodes, or if more
packets fail than decode: that is not a damaged recording, but something else.
Channels are mixed by their mean, all of them alike, before the one resampler (swresample) runs.
"""

from __future__ import annotations

import json
import resource
import struct
import sys
from collections.abc import Iterator
from io import BytesIO
from typing import Any, NamedTuple, NoReturn

import av
import numpy as np
from av.filter import Graph
from numpy.typing import NDArray

TARGET_RATE = 16_000
_EMIT_SAMPLES = 2 * TARGET_RATE
"""PCM is sent in pieces of at least two seconds."""

_SCALES = {"u8": 2.0**7, "s16": 2.0**15, "s32": 2.0**31, "flt": 1.0, "dbl": 1.0}
"""Full scale of ffmpeg's sample formats (24-bit audio decodes to s32)."""

_CODECS = (
    "aac,aac_latm,ac3,adpcm_g722,adpcm_g726,adpcm_g726le,adpcm_ima_qt,adpcm_ima_wav,adpcm_ms,"
    "alac,amrnb,amrwb,eac3,flac,g722,g726,g726le,gsm,gsm_ms,libopencore_amrnb,"
    "libopencore_amrwb,libopus,mp1,mp1float,mp2,mp2float,mp3,mp3float,opus,pcm_alaw,pcm_f32be,"
    "pcm_f32le,pcm_f64be,pcm_f64le,pcm_mulaw,pcm_s16be,pcm_s16le,pcm_s24be,pcm_s24le,pcm_s32be,"
    "pcm_s32le,pcm_s8,pcm_u8,speex,vorbis"
)
"""The decoders that may run, by ffmpeg's names: speech and music, nothing exotic."""


class Job(NamedTuple):
    """What to decode and how much may be spent on it.

    Attributes:
        demuxer: ffmpeg's name of the one demuxer to use.
        size: bytes of the file.
        max_channels, min_rate, max_rate: what a plausible recording has.
        memory_bytes, cpu_s: hard limits of this process.
    """

    demuxer: str
    size: int
    max_channels: int
    min_rate: int
    max_rate: int
    memory_bytes: int
    cpu_s: int


class RefusedError(Exception):
    """The file is not served; the message says why."""


def warm_up() -> None:
    """Decode a few samples, so that all that is imported on first use is there.

    No file can be opened later. The samples are 8 kHz, so that the resampler takes part.
    """
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 8000, 16000, 2, 16)
    body = b"WAVE" + fmt + struct.pack("<4sI", b"data", 64) + bytes(64)
    data = struct.pack("<4sI", b"RIFF", len(body)) + body
    job = Job("wav", len(data), 1, 8000, 8000, 0, 0)
    with open_container(job, data) as container:
        for _ in resampled(audio_frames(job, container)):
            pass


def send(kind: bytes, payload: bytes = b"") -> None:
    """Write one frame."""
    sys.stdout.buffer.write(struct.pack("<cI", kind, len(payload)) + payload)
    sys.stdout.buffer.flush()


def confine(job: Job) -> None:
    """Take away what decoding does not need: memory, time, files, sockets, core dumps."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
    resource.setrlimit(resource.RLIMIT_CPU, (job.cpu_s, job.cpu_s + 1))
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (job.memory_bytes, job.memory_bytes))


def _refuse_to_open(url: str, *_: object) -> NoReturn:
    raise RefusedError(f"It refers to another file: {url!r}.")


def open_container(job: Job, data: bytes) -> Any:  # noqa: ANN401 - PyAV's types are not followed
    """Open the file with the one demuxer that its first bytes call for, and nothing beside it."""
    container = av.open(
        BytesIO(data),
        mode="r",
        format=job.demuxer,
        options={
            "protocol_whitelist": "none",
            "format_whitelist": job.demuxer,
            "codec_whitelist": _CODECS,
        },
        metadata_errors="replace",
        io_open=_refuse_to_open,
    )
    if job.demuxer not in container.format.name.split(","):
        raise RefusedError(f"It was opened as {container.format.name}, not as {job.demuxer}.")
    return container


def check_format(job: Job, rate: int, n_channels: int) -> None:
    """Refuse what no recording has: a header can claim anything."""
    if not 1 <= n_channels <= job.max_channels:
        raise RefusedError(f"It has {n_channels} channels; the maximum is {job.max_channels}.")
    if not job.min_rate <= rate <= job.max_rate:
        allowed = f"{job.min_rate} to {job.max_rate}"
        raise RefusedError(f"Its sample rate is {rate} Hz; it must be from {allowed} Hz.")


def audio_frames(job: Job, container: Any) -> Iterator[Any]:  # noqa: ANN401
    """Yield the decoded frames of the first audio stream that has a decoder."""
    if not container.streams.audio:
        raise RefusedError("It holds no audio stream.")
    stream = container.streams.audio[0]
    codec = stream.codec_context
    if codec is None or codec.codec.name not in _CODECS.split(","):
        raise RefusedError(f"Its codec is not supported: {codec.name if codec else 'unknown'}.")
    check_format(job, codec.sample_rate, codec.layout.nb_channels)
    codec.thread_type = "NONE"
    codec.thread_count = 1
    good, bad, reason = 0, 0, "It holds no audio."
    packets = container.demux(stream)
    packet: Any = ...
    while packet is not None:
        try:
            packet = next(packets, None)
        except av.FFmpegError as error:  # the container breaks off here: keep what came before
            packet, reason = None, f"{error.strerror}."
        if packet is not None and packet.size == 0:  # would end the decoder, as None does
            continue
        try:
            frames = codec.decode(packet)
        except av.FFmpegError as error:
            frames, reason, bad = [], f"{error.strerror}.", bad + 1
        for frame in frames:
            check_format(job, frame.sample_rate, frame.layout.nb_channels)
            good += frame.samples > 0
            yield frame
    if good == 0 or bad > good:
        raise RefusedError(f"{bad} of its packets cannot be decoded, {good} can. {reason}")


def filters(source: Any, *chain: tuple[str, str]) -> Graph:  # noqa: ANN401
    """Return a graph from frames like `source` through the filters, (name, arguments) each."""
    graph = Graph()
    graph.threads = 1
    graph.link_nodes(
        graph.add(
            "abuffer", sample_rate=f"{source.sample_rate}", sample_fmt=source.format.name,
            channel_layout=source.layout.name, time_base=f"1/{source.sample_rate}",
        ),
        *(graph.add(name, arguments) for name, arguments in chain),
        graph.add("abuffersink"),
    ).configure()  # fmt: skip
    return graph


def interleave(frame: Any) -> Any:  # noqa: ANN401
    """Return a planar frame with its channels interleaved.

    PyAV 18 looks for the planes of a frame past the end of their table if there are 8 or more.
    """
    graph = filters(frame, ("aformat", f"sample_fmts={frame.format.name.removesuffix('p')}"))
    graph.push(frame)
    graph.push(None)
    return graph.pull()


def mix(frame: Any) -> NDArray[np.float32]:  # noqa: ANN401
    """Return the mean of a frame's channels, f32[n], clipped to [-1, 1]."""
    name = frame.format.name
    scale = _SCALES.get(name.removesuffix("p"))
    if scale is None:
        raise RefusedError(f"Its sample format is not supported: {name}.")
    n_channels = frame.layout.nb_channels
    if name.endswith("p") and n_channels >= 8:
        samples = interleave(frame).to_ndarray().reshape(-1, n_channels).T  # [channels n]
    elif name.endswith("p"):
        samples = frame.to_ndarray()
    else:
        samples = frame.to_ndarray().reshape(-1, n_channels).T
    mono: NDArray[np.float64] = samples.mean(axis=0, dtype=np.float64)
    if name.startswith("u8"):
        mono -= scale
    if not np.isfinite(mono).all():
        raise RefusedError("It holds samples that are not finite numbers.")
    return (mono / scale).clip(-1.0, 1.0).astype(np.float32)


class Resampler:
    """swresample from one rate to 16 kHz, mono; exactly n*16000/rate samples come out, rounded up.

    swresample alone swallows a handful of samples: silence is pushed after the end and cut off.
    """

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._n_in = 0
        self._n_out = 0
        self._graph: Graph | None = None

    def push(self, mono: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
        """Yield what can be said once `mono` is known."""
        self._n_in += len(mono)
        if self.rate == TARGET_RATE:
            yield mono
        elif len(mono):
            for piece in self._through(mono):
                self._n_out += len(piece)
                yield piece

    def finish(self) -> Iterator[NDArray[np.float32]]:
        """Yield the rest."""
        if self.rate == TARGET_RATE or not self._n_in:
            return
        missing = -(-self._n_in * TARGET_RATE // self.rate) - self._n_out
        for piece in self._through(np.zeros(self.rate // 10, dtype=np.float32)):
            yield piece[:missing]
            missing -= min(missing, len(piece))

    def _through(self, mono: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
        frame = av.AudioFrame.from_ndarray(mono[None], format="flt", layout="mono")
        frame.sample_rate = self.rate
        if self._graph is None:
            to_float = ("aformat", "sample_fmts=flt:channel_layouts=mono")
            self._graph = filters(frame, ("aresample", f"{TARGET_RATE}"), to_float)
        self._graph.push(frame)
        while True:
            try:
                yield self._graph.pull().to_ndarray()[0]
            except av.BlockingIOError:  # it wants more input
                return


def resampled(frames: Iterator[Any]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield (bytes decoded so far, 16 kHz samples); the rate may change within a file."""
    resampler: Resampler | None = None
    decoded_bytes = 0
    for frame in frames:
        decoded_bytes += frame.samples * frame.layout.nb_channels * 4
        if resampler is None or resampler.rate != frame.sample_rate:
            if resampler is not None:
                yield from ((decoded_bytes, piece) for piece in resampler.finish())
            resampler = Resampler(frame.sample_rate)
        yield from ((decoded_bytes, piece) for piece in resampler.push(mix(frame)))
    if resampler is not None:
        yield from ((decoded_bytes, piece) for piece in resampler.finish())


def run(job: Job, data: bytes) -> None:
    """Decode `data` and send its PCM."""
    waiting: list[NDArray[np.float32]] = []
    with open_container(job, data) as container:
        for decoded_bytes, piece in resampled(audio_frames(job, container)):
            waiting.append(piece)
            if sum(map(len, waiting)) >= _EMIT_SAMPLES:
                send_pcm(decoded_bytes, waiting)
        if waiting:
            send_pcm(decoded_bytes, waiting)
    send(b"D")


def send_pcm(decoded_bytes: int, waiting: list[NDArray[np.float32]]) -> None:
    """Send what is waiting, clipped (a resampler overshoots), and empty it."""
    samples = np.concatenate(waiting).clip(-1.0, 1.0).astype("<f4")
    send(b"P", struct.pack("<Q", decoded_bytes) + samples.tobytes())
    waiting.clear()


def main() -> None:
    """Serve one job."""
    np.seterr(all="ignore")
    warm_up()
    send(b"R")
    line = sys.stdin.buffer.readline()
    if not line:  # the parent left
        return
    job = Job(**json.loads(line))
    confine(job)
    data = sys.stdin.buffer.read(job.size)
    if len(data) < job.size:
        return
    try:
        run(job, data)
    except RefusedError as error:
        send(b"E", str(error).encode())
    except av.FFmpegError as error:
        send(b"E", f"It cannot be opened as {job.demuxer}: {error.strerror}.".encode())
    except MemoryError:
        send(b"E", f"Decoding it takes more than {job.memory_bytes} bytes of memory.".encode())


if __name__ == "__main__":
    main()
