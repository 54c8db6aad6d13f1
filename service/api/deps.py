"""What the routes stand on: their configuration and the parts that do the work.

Knows nothing about where these come from: `service/build.py` makes them. The app is bound before
the model is loaded, so `Services` exists at once and holds a `Serving` only when that is ready.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastapi import Request

from service.api.admission import AudioBudget
from service.api.idle import Idle
from service.api.keys import ApiKeys
from service.at_work import ModelFlow
from service.engine.engine import Engine, EngineState
from service.errors import EngineDead, EngineDraining, EngineStarting, ServiceError
from service.memory import give_back

if TYPE_CHECKING:
    from service.audio.decode import AudioDecoder
    from service.metrics import Metrics
    from service.transcription.transcriber import Transcriber

logger = logging.getLogger(__name__)

IDLE_S = 1.0
"""Without work until memory is given back."""


@dataclass(frozen=True, slots=True)
class ApiConfig:
    """Limits and deadlines of the HTTP interface.

    Attributes:
        model_id: the name under which the model is listed in `/v1/models`.
        api_keys: one of which is needed, if there are any; for the routes that ask.
        cors_origins: whose pages may read answers; none by default, `*` for all.
        model_aliases: other values of the `model` option that mean the same model.
        created_s: Unix time of the model file, for `/v1/models`.
        version: of the service, for `/health`.
        max_upload_bytes: bytes of a whole request body.
        max_queue_audio_s: seconds of decoded audio that all requests together may hold.
        max_form_parts: parts of one multipart form.
        max_field_bytes: bytes of one text field of a form.
        max_request_timeout_s: from a request's arrival to its end; its client may ask for less.
        body_timeout_s: from the first to the last byte of a body.
        body_idle_timeout_s: between two chunks of a body.
        send_timeout_s: for a reader to take what was sent to it.
        keepalive_s: the longest silence on an event stream.
        drain_bytes, drain_timeout_s: how much of a refused body is still read, so that the client
            sees the answer and not a reset connection.
    """

    model_id: str
    model_aliases: tuple[str, ...] = ("whisper-1",)
    api_keys: ApiKeys = field(default_factory=ApiKeys)
    cors_origins: tuple[str, ...] = ()
    created_s: int = 0
    version: str = "0"
    max_upload_bytes: int = 200 * 1024 * 1024
    max_queue_audio_s: float = 8 * 3600.0
    max_form_parts: int = 256
    max_field_bytes: int = 16 * 1024
    max_request_timeout_s: float = 14_400.0
    body_timeout_s: float = 300.0
    body_idle_timeout_s: float = 20.0
    send_timeout_s: float = 30.0
    keepalive_s: float = 15.0
    drain_bytes: int = 4 * 1024 * 1024
    drain_timeout_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Serving:
    """The parts that need the model: a started, warm engine and the transcriber over it.

    Attributes:
        device, dtype, numerics: where the model runs and in what, for `/health`.
        flow: None for a model that comes from no file.
    """

    engine: Engine
    transcriber: Transcriber
    device: str = "cpu"
    dtype: str = "float32"
    numerics: str = "plain"
    flow: ModelFlow | None = None


class Services:
    """Everything that the routes need.

    Args:
        config: limits and deadlines.
        metrics: the process's instruments.
        audio_decoder: not started yet; `load` starts it, the app's lifespan closes it.
        load: called once by the app's lifespan, as a background task on the event loop that serves.
            It has the model loaded, starts and warms the engine, and returns what serves with it.
            An exception from it makes the service `dead`.
        on_dead: called once if loading fails, so that the process can end with a failure.
    """

    def __init__(
        self,
        config: ApiConfig,
        metrics: Metrics,
        audio_decoder: AudioDecoder,
        load: Callable[[], Awaitable[Serving]],
        on_dead: Callable[[BaseException], None] = lambda error: None,
    ) -> None:
        self.config = config
        self.metrics = metrics
        self.audio_decoder = audio_decoder
        self.audio_budget = AudioBudget(
            config.max_queue_audio_s, metrics.queue_audio_seconds, self._retry_after_s
        )
        self.idle = Idle(self._tidy, IDLE_S)
        self.serving: Serving | None = None
        self.failure: BaseException | None = None
        self._load = load
        self._on_dead = on_dead
        self._draining = False
        metrics.ready.set_function(lambda: float(self.state is EngineState.READY))

    async def load(self) -> None:
        """Load the model and begin to serve; never raises, but leaves the state `dead`."""
        try:
            serving = await self._load_all()
        except Exception as error:
            self.failure = error
            if not isinstance(error, ServiceError):
                logger.exception("the service could not start")
            self._on_dead(error)
            return
        self.serving = serving
        if self._draining:
            serving.engine.drain()

    async def _load_all(self) -> Serving:
        """Return what serves once the decoder has started too, or leave nothing of either."""
        starting = asyncio.create_task(self.audio_decoder.start())
        try:
            serving = await self._load()
            try:
                await starting
            except BaseException:
                await serving.engine.stop(0.0)
                raise
            return serving
        finally:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)

    def drain(self) -> None:
        """Take no new work from now on; what runs goes on. Idempotent."""
        self._draining = True
        if self.serving is not None:
            self.serving.engine.drain()

    def _tidy(self) -> None:
        """Give memory back that is free."""
        give_back()
        if self.serving is not None:
            self.serving.engine.tidy()

    def _retry_after_s(self) -> float:
        """Return when one for whom there is no room should come back."""
        return 1.0 if self.serving is None else self.serving.engine.retry_after_s()

    @property
    def state(self) -> EngineState:
        """Return what this process can do now."""
        if self.failure is not None:
            return EngineState.DEAD
        if self.serving is not None and self.serving.engine.state is EngineState.DEAD:
            return EngineState.DEAD
        if self._draining:
            return EngineState.DRAINING
        return self.serving.engine.state if self.serving is not None else EngineState.STARTING

    def require_serving(self) -> Serving:
        """Return the engine and its transcriber.

        Raises:
            EngineStarting, EngineDraining, EngineDead: by the state.
        """
        state = self.state
        if state is EngineState.DEAD:
            raise EngineDead("the engine has failed; the process is about to restart")
        if state is EngineState.DRAINING:
            raise EngineDraining("the service is shutting down and takes no new work")
        if self.serving is None or state is not EngineState.READY:
            raise EngineStarting("the model is still being loaded", retry_after_s=2.0)
        return self.serving


async def get_services(request: Request) -> Services:
    """Return the services of the app that serves this request.

    A coroutine though it awaits nothing: FastAPI sends a plain function to a worker thread, and
    each request would wait for that thread to get a core and the interpreter's lock.
    """
    services: Services = request.app.state.services
    return services
