"""Every Prometheus instrument of the service, named here, with its unit in the name.

Knows nothing about who observes what. One `Metrics` per service, in the process that answers; it
is told what the engine's process does (tests make their own, each with its registry). Labels never
hold user data.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_LATENCY_S = (
    0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 20, 30, 60, 120, 300, 600,
    1800, 3600,
)  # fmt: skip
_FIRST_TOKEN_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40,
    80, 160, 640, 2560,
)  # fmt: skip
_INTER_TOKEN_S = (
    0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5,
    10, 20, 40, 80,
)  # fmt: skip
_QUEUE_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_LAG_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_BATCH = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128)
_AUDIO_S = (1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 14400)
_REALTIME = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_BYTES = (1e4, 1e5, 1e6, 5e6, 1e7, 2.5e7, 5e7, 1e8, 5e8)


class Metrics:
    """All instruments over one registry."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self._define_gauges()
        self._define_counters()
        self._define_histograms()

    def render(self) -> bytes:
        """Return the Prometheus text exposition."""
        return generate_latest(self.registry)

    def _gauge(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(f"earshot_{name}", text, labels, registry=self.registry)

    def _counter(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(f"earshot_{name}", text, labels, registry=self.registry)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], labels: tuple[str, ...] = ()
    ) -> Histogram:
        return Histogram(f"earshot_{name}", text, labels, buckets=buckets, registry=self.registry)

    def _define_gauges(self) -> None:
        gauge = self._gauge
        self.ready = gauge("ready", "1 when the service takes new work")
        self.model_loaded = gauge("model_loaded", "1 when the model is loaded and warm")
        self.build_info = gauge("build_info", "Always 1", ("version", "torch", "device", "dtype"))
        self.model_info = gauge("model_info", "Always 1", ("model_name",))
        self.requests_waiting = gauge(
            "requests_waiting", "Requests with a permit and no window decoding yet"
        )
        self.requests_running = gauge("requests_running", "Requests with a permit")
        self.queue_capacity = gauge("queue_capacity", "Requests that may hold a permit at once")
        self.queue_audio_seconds = gauge(
            "queue_audio_seconds", "Seconds of decoded audio held by requests"
        )
        self.window_slots_used = gauge("window_slots_used", "Cross-attention slots in use")
        self.window_slots_total = gauge("window_slots_total", "Cross-attention slots")
        self.decoder_rows_used = gauge("decoder_rows_used", "Self-attention rows in use")
        self.decoder_rows_total = gauge("decoder_rows_total", "Self-attention rows")
        self.event_loop_tasks = gauge("event_loop_tasks", "Tasks on the event loop")
        self.kv_cache_bytes = gauge("kv_cache_bytes", "Bytes of the key/value pools")

    def _define_counters(self) -> None:
        counter = self._counter
        self.requests = counter("requests", "Requests answered", ("endpoint", "stream", "status"))
        self.requests_rejected = counter(
            "requests_rejected", "Requests refused before any work", ("reason",)
        )
        self.requests_cancelled = counter(
            "requests_cancelled", "Requests whose client left", ("stage",)
        )
        self.request_failures = counter(
            "request_failures", "Requests that failed on our side", ("reason",)
        )
        self.audio_seconds = counter("audio_seconds", "Seconds of audio transcribed")
        self.speech_seconds = counter("speech_seconds", "Seconds of speech that were detected")
        self.uncovered_seconds = counter(
            "uncovered_seconds", "Seconds of detected speech that have no text"
        )
        self.upload_bytes = counter("upload_bytes", "Bytes of audio received")
        self.tokens = counter("tokens", "Decoder tokens", ("kind",))
        self.windows = counter("windows", "Windows decoded", ("outcome",))
        self.fallbacks = counter(
            "fallbacks", "Decodings of a window that were not good enough", ("reason",)
        )
        self.encoder_windows = counter("encoder_windows", "Windows encoded")
        self.encoder_batches = counter("encoder_batches", "Encoder forwards")
        self.decoder_steps = counter("decoder_steps", "Decoder forwards")

    def _define_histograms(self) -> None:
        histogram = self._histogram
        self.request_duration = histogram(
            "request_duration_seconds", "First byte in to last byte out", _LATENCY_S,
            ("endpoint", "stream"),
        )  # fmt: skip
        self.queue = histogram(
            "queue_seconds", "First window ready to the step that encodes it", _QUEUE_S
        )
        self.time_to_first_token = histogram(
            "time_to_first_token_seconds", "Request to first token", _FIRST_TOKEN_S
        )
        self.inter_token = histogram(
            "inter_token_seconds", "Between two tokens of a window", _INTER_TOKEN_S
        )
        self.stage = histogram(
            "stage_seconds", "Time in one stage of a request", _LATENCY_S, ("stage",)
        )
        self.event_loop_lag = histogram(
            "event_loop_lag_seconds", "How late a timer of the event loop came", _LAG_S
        )
        self.encoder_batch_size = histogram(
            "encoder_batch_size", "Windows an encoder forward", _BATCH
        )
        self.decoder_batch_size = histogram("decoder_batch_size", "Rows a decoder step", _BATCH)
        self.audio_duration = histogram(
            "audio_duration_seconds", "Seconds of audio in a request", _AUDIO_S
        )
        self.realtime_factor = histogram(
            "realtime_factor", "Seconds of audio a second of wall time", _REALTIME
        )
        self.upload_size = histogram("upload_size_bytes", "Bytes of one upload", _BYTES)
