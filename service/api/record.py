"""What is known of one request: its id, what it holds, how far it came, and its line in the log.

Knows nothing about how requests are answered.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from starlette.requests import Request

from service import logs
from service.api.errors import ClientDisconnected, answer_to
from service.errors import AudioTooLong, PayloadTooLarge, ServiceError, Unavailable

if TYPE_CHECKING:
    from service.metrics import Metrics
    from service.transcription.transcriber import Transcription

logger = logging.getLogger("service.api")

REQUEST_ID = "x-request-id"
STATUS_LEFT = 499
"""In the log and the metrics, where the client left before its answer (nginx's number)."""
QUIET = frozenset(
    {"/health", "/healthz", "/livez", "/ping", "/readyz", "/metrics"}
    | {"/", "/web/{name}", "/web/facts.json", "/docs", "/docs/{name}", "/openapi.json"}
)
"""Asked every few seconds by machines, or a dozen at once by a browser: not worth a line each."""

_SAFE_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


@dataclass(slots=True)
class RequestRecord:
    """One request, from its first byte to its last.

    Attributes:
        id: the client's `x-request-id` where that is harmless, otherwise ours.
        arrived_at: `time.perf_counter()` of its arrival.
        resources: freed when the request ends, however it ends.
        stage: what it is doing, for the count of clients that left.
        stream: whether it is answered by an event stream.
        status: of the answer; 0 before there is one.
        upload_bytes: of its body.
        error: what it was refused or failed with.
        transcription: once there is one.
    """

    id: str
    arrived_at: float = field(default_factory=time.perf_counter)
    resources: ExitStack = field(default_factory=ExitStack)
    stage: str = "admission"
    stream: bool = False
    status: int = 0
    upload_bytes: int = 0
    error: BaseException | None = None
    transcription: Transcription | None = None

    @classmethod
    def of(cls, request: Request) -> RequestRecord:
        """Return the record of a request."""
        record: RequestRecord = request.state.record
        return record

    @contextmanager
    def timed(self, stage: str, metrics: Metrics) -> Iterator[None]:
        """Measure a stage."""
        self.stage = stage
        began_at = time.perf_counter()
        try:
            yield
        finally:
            metrics.stage.labels(stage).observe(time.perf_counter() - began_at)

    def fail(self, error: BaseException) -> None:
        """Note an error; one that is not ours is logged with its traceback."""
        self.error = error
        if not isinstance(error, ServiceError):
            logger.error("an unexpected error", exc_info=error)


def request_id_of(offered: str | None) -> str:
    """Return the id that a client offers, or a new one if that could do harm in a log."""
    if offered is not None and _SAFE_ID.fullmatch(offered):
        return offered
    return secrets.token_hex(16)


def report(record: RequestRecord, metrics: Metrics, method: str, endpoint: str) -> None:
    """Count a request that has ended, and log its one line."""
    duration_s = time.perf_counter() - record.arrived_at
    stream = "true" if record.stream else "false"
    metrics.requests.labels(endpoint, stream, str(record.status)).inc()
    metrics.request_duration.labels(endpoint, stream).observe(duration_s)
    _count_outcome(record, metrics)
    details = _count_transcription(record, metrics, duration_s)
    level = logging.DEBUG if endpoint in QUIET else logging.INFO
    error = record.error
    if error is not None and not isinstance(error, ClientDisconnected):
        details["error"] = error.code if isinstance(error, ServiceError) else "internal_error"
    if logger.isEnabledFor(level):
        _log(level, f"{method} {endpoint}", record.status, duration_s, details)


class RefusalTally:
    """Counts and logs requests that are all refused for one reason, at once, as `report` does.

    Args:
        metrics: where they are counted.
        method, endpoint: of the requests.
        status: of the answers.
        code: of the error that is the reason.
    """

    def __init__(
        self, metrics: Metrics, method: str, endpoint: str, status: int, code: str
    ) -> None:
        self._what = f"{method} {endpoint}"
        self._status = status
        self._code = code
        self._requests = metrics.requests.labels(endpoint, "false", str(status))
        self._duration = metrics.request_duration.labels(endpoint, "false")
        self._rejected = metrics.requests_rejected.labels(code)

    def report(self, request_id: str, duration_s: float) -> None:
        """Count one, and log its line."""
        self._requests.inc()
        self._duration.observe(duration_s)
        self._rejected.inc()
        if logger.isEnabledFor(logging.INFO):
            token = logs.request_id.set(request_id)
            try:
                _log(logging.INFO, self._what, self._status, duration_s, {"error": self._code})
            finally:
                logs.request_id.reset(token)


def _log(
    level: int, what: str, status: int, duration_s: float, details: Mapping[str, object]
) -> None:
    line = logs.fields(status=status, duration_ms=round(1e3 * duration_s, 1), **details)
    logger.log(level, "%s", what, extra=line)


def _count_outcome(record: RequestRecord, metrics: Metrics) -> None:
    error = record.error
    if record.upload_bytes:
        metrics.upload_bytes.inc(record.upload_bytes)
        metrics.upload_size.observe(record.upload_bytes)
    if isinstance(error, ClientDisconnected):
        metrics.requests_cancelled.labels(_stage(record)).inc()
    elif isinstance(error, Unavailable | PayloadTooLarge | AudioTooLong):
        metrics.requests_rejected.labels(error.code).inc()
    elif isinstance(error, ServiceError):
        if answer_to(error).status >= 500:
            metrics.request_failures.labels(error.code).inc()
    elif error is not None:
        metrics.request_failures.labels("internal_error").inc()


def _stage(record: RequestRecord) -> str:
    waiting = record.transcription is not None and record.transcription.queue_s is None
    return "queued" if waiting else record.stage


def _count_transcription(
    record: RequestRecord, metrics: Metrics, duration_s: float
) -> dict[str, Any]:
    """Observe what a transcription came to; return it for the log."""
    transcription = record.transcription
    if transcription is None:
        return {}
    audio_s = transcription.duration_s
    realtime_factor = audio_s / duration_s
    first_s, queue_s = transcription.first_token_s, transcription.queue_s
    metrics.audio_duration.observe(audio_s)
    account = transcription.account
    metrics.windows.labels("ok").inc(account.n_windows - account.n_silent)
    metrics.windows.labels("no_speech").inc(account.n_silent)
    metrics.speech_seconds.inc(account.speech_s)
    metrics.uncovered_seconds.inc(account.uncovered_s)
    for failure, n_attempts in account.failures.items():
        metrics.fallbacks.labels(failure).inc(n_attempts)
    if first_s is not None:
        metrics.time_to_first_token.observe(first_s)
    if record.error is None:
        metrics.audio_seconds.inc(audio_s)
        metrics.realtime_factor.observe(realtime_factor)
    return {
        "audio_s": round(audio_s, 3),
        "queue_ms": None if queue_s is None else round(1e3 * queue_s, 1),
        "first_token_ms": None if first_s is None else round(1e3 * first_s, 1),
        "tokens": transcription.usage.output_tokens,
        "realtime_factor": round(realtime_factor, 2),
    }
