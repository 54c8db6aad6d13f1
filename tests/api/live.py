"""A live server on a free port, in a thread of this process, and what tests do with it."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import struct
import threading
import time
import wave
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import httpx
import numpy as np
import uvicorn
from numpy.typing import NDArray

from service.api.app import create_app
from service.api.deps import ApiConfig, Services, Serving
from service.at_work import ModelFlow
from service.audio.decode import AudioDecoder, AudioLimits
from service.audio.vad import SpeechModels
from service.engine.core import EngineCore
from service.engine.engine import Engine, EngineConfig, EngineState
from service.engine.hosts import ThreadHost
from service.engine.scheduler import Scheduler, SchedulerConfig
from service.engine.types import Runner
from service.metrics import Metrics
from service.protocol import BoundedProtocol
from service.text.tokenizer import WhisperTokenizer
from service.transcription.params import ModelFacts
from service.transcription.transcriber import Transcriber

DEADLINE_S = 120.0
"""For anything at all; a test that waits longer has failed."""
RATE = 16_000
MODEL = "tiny-random"

Samples = NDArray[np.float32]


def until(condition: Callable[[], bool], what: str, within_s: float = DEADLINE_S) -> None:
    """Poll until it holds.

    Raises:
        TimeoutError: if it does not in time.
    """
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.005)


@dataclass(frozen=True)
class Parts:
    """What a server is made of, beside its limits.

    Attributes:
        runner: makes the runner, anew for each server.
        log_maximum: of the mel of a whole recording.
        flow: of the model's file.
        speech_models: to detect voice activity with.
    """

    runner: Callable[[], Runner]
    tokenizer: WhisperTokenizer
    facts: ModelFacts
    log_maximum: Callable[[Samples], float]
    rows: int = 4
    flow: ModelFlow | None = None
    speech_models: SpeechModels | None = None


@dataclass
class Limits:
    """What a test wants to be small."""

    max_requests: int = 32
    max_audio_s: float = 60.0
    api: dict[str, Any] = field(default_factory=dict)


def services_of(
    parts: Parts,
    limits: Limits,
    before_loading: Callable[[], Awaitable[None]] | None = None,
    on_dead: Callable[[BaseException], None] = lambda error: None,
) -> Services:
    """Return services over a real engine."""
    metrics = Metrics()
    config = ApiConfig(**{"model_id": MODEL, **limits.api})
    audio = AudioLimits(
        max_upload_bytes=config.max_upload_bytes,
        max_audio_s=limits.max_audio_s,
        max_channels=8,
        max_decoded_bytes=1 << 28,
        decode_timeout_s=DEADLINE_S,
    )

    async def load() -> Serving:
        if before_loading is not None:
            await before_loading()
        scheduler = SchedulerConfig(
            parts.rows, parts.rows, parts.tokenizer.eot, parts.facts.n_text_ctx
        )
        core = EngineCore(Scheduler(scheduler), parts.runner())
        engine = Engine(ThreadHost(core), config=EngineConfig(limits.max_requests), metrics=metrics)
        engine.start()
        await engine.until_ready()
        transcriber = Transcriber(
            parts.facts, parts.tokenizer, parts.log_maximum, parts.speech_models
        )
        return Serving(engine, transcriber, flow=parts.flow)

    return Services(config, metrics, AudioDecoder(audio, max_children=1), load, on_dead)


class LiveServer:
    """Serves until the `with` block is left.

    Args:
        services: what it serves with.
        ready: whether to wait until the engine is warm.
        send_buffer: bytes that the kernel takes for a client that does not read; its default if 0.
    """

    running: ClassVar[list[LiveServer]] = []

    def __init__(self, services: Services, *, ready: bool = True, send_buffer: int = 0) -> None:
        self.services = services
        self._send_buffer = send_buffer
        self._wait_until_ready = ready
        app = create_app(services)
        config = uvicorn.Config(
            app,
            http=BoundedProtocol.with_settings(BoundedProtocol.header_timeout_s, app.state.door),
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=5,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, name="live-server")

    def _serve(self) -> None:
        with asyncio.Runner() as runner:
            self.loop = runner.get_loop()
            runner.run(self._server.serve(sockets=[self._listener]))

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        if self._send_buffer:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._send_buffer)
        self._thread.start()
        until(lambda: self._server.started or not self._thread.is_alive(), "the server starts")
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = self._new_client()
        self.running.append(self)
        if self._wait_until_ready:
            until(lambda: self.services.state is EngineState.READY, "the engine is warm")
        return self

    def __exit__(self, *exception: object) -> None:
        self.running.remove(self)
        self.client.close()
        self._server.should_exit = True
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive(), "the server does not end"
        self._listener.close()

    def _new_client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=DEADLINE_S, trust_env=False)

    @property
    def engine(self) -> Engine:
        assert self.services.serving is not None
        return self.services.serving.engine

    def until_idle(self) -> None:
        """Wait until nothing is held: no permit, no slot, no row, no audio."""

        def idle() -> bool:
            stats = self.engine.stats()
            held = ("requests", "windows_waiting", "window_slots_used", "decoder_rows_used")
            return not any(stats[name] for name in held) and not self.services.audio_budget.held_s

        until(idle, "everything is free again")

    def rest(self) -> None:
        """Wait until nothing is held, connections are closed, and children wait for the next file.

        A server that is not ready holds nothing that is given back before its end.
        """
        self.client.close()
        self.client = self._new_client()
        if self.services.state is not EngineState.READY:
            return
        self.until_idle()
        children = self.services.audio_decoder._children

        def still() -> bool:
            waiting = [task.done() for task in list(children._idle)]
            busy = children._active or children._reaping or self._server.server_state.connections
            return len(waiting) == children._max_idle and all(waiting) and not busy

        until(still, "the decoder and the connections rest")

    def metric(self, name: str, **labels: str) -> float:
        """Return a sample of the metrics, 0 if there is none."""
        return self.services.metrics.registry.get_sample_value(name, labels) or 0.0

    def transcribe(self, audio: bytes, **options: object) -> httpx.Response:
        """Post a raw body and read the whole answer."""
        return self.client.post(
            "/transcribe",
            content=audio,
            headers={"content-type": "audio/wav"},
            params=texts(options),
        )

    def events(self, audio: bytes, **options: object) -> list[dict[str, Any]]:
        """Return the events of a transcription."""
        response = self.transcribe(audio, **options)
        assert response.status_code == 200, response.text
        return events_of(response.text)


def texts(options: dict[str, object]) -> dict[str, str]:
    return {name: str(value).lower() if isinstance(value, bool) else str(value)
            for name, value in options.items()}  # fmt: skip


def events_of(body: str) -> list[dict[str, Any]]:
    """Return the data of each event, with the names checked against it."""
    events = []
    for block in body.removesuffix("\n\n").split("\n\n"):
        if block.startswith(":"):
            continue
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    return events


def stream_events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """Yield events as they arrive."""
    for line in response.iter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


def standing(events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the tokens that no retraction has made void."""
    tokens: list[dict[str, Any]] = []
    for event in events:
        if event["type"] == "token":
            tokens.append(event)
        elif event["type"] == "retract":
            tokens = [token for token in tokens if token["index"] < event["from_index"]]
    return tokens


def noise(seconds: float, seed: int = 0, rate: int = RATE) -> Samples:
    """Return a tone that wanders, in noise: different for every seed."""
    rng = np.random.default_rng(seed)
    n_samples = round(seconds * rate)
    time_s = np.arange(n_samples) / rate
    tone = np.sin(2 * np.pi * (200 + 150 * (seed % 7) + 400 * time_s) * time_s)
    return (0.4 * tone + rng.normal(0, 0.1, n_samples)).astype(np.float32)


def wav(samples: Samples, rate: int = RATE, channels: int = 1) -> bytes:
    """Return 16-bit PCM, the same in every channel."""
    pcm = (np.clip(samples, -1, 1) * 32767).astype("<i2").repeat(channels)
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(channels)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(pcm.tobytes())
    return file.getvalue()


def float_wav(samples: Samples, rate: int = RATE) -> bytes:
    """Return 32-bit float WAV, which can hold what PCM cannot."""
    data = samples.astype("<f4").tobytes()
    chunks = struct.pack("<4sIHHIIHH", b"fmt ", 16, 3, 1, rate, 4 * rate, 4, 32)
    chunks += struct.pack("<4sI", b"data", len(data)) + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def assert_envelope(response: httpx.Response, status: int) -> dict[str, Any]:
    """Check status and shape of an error; return the error."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    body = response.json()
    assert list(body) == ["error"]
    error: dict[str, Any] = body["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert error["message"]
    return error


def gate() -> tuple[threading.Event, Callable[[], Awaitable[None]]]:
    """Return an event, and what waits for it on another thread's loop."""
    opened = threading.Event()

    async def wait() -> None:
        await asyncio.to_thread(opened.wait, DEADLINE_S)

    return opened, wait
