from __future__ import annotations

import json
import logging

import pytest
from prometheus_client.parser import text_string_to_metric_families

from service import logs
from tests.api.live import MODEL, LiveServer, assert_envelope, noise, until, wav

SHORT = wav(noise(0.5))


@pytest.mark.parametrize("path", ["/health", "/healthz", "/livez", "/readyz", "/ping"])
def test_probes_answer_with_the_state(live: LiveServer, path: str) -> None:
    response = live.client.get(path)
    assert response.status_code == 200
    body = response.json()
    assert (body["status"], body["model"]) == ("ready", MODEL)
    assert body["engine"]["window_slots"] == 4
    assert response.headers["cache-control"] == "no-store"


def test_metrics_can_be_parsed_and_count_requests(live: LiveServer) -> None:
    labels = {"endpoint": "/transcribe", "stream": "true", "status": "200"}
    before = live.metric("earshot_requests_total", **labels)
    live.events(SHORT)
    until(lambda: live.metric("earshot_requests_total", **labels) == before + 1, "it is counted")
    response = live.client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    families = {family.name: family for family in text_string_to_metric_families(response.text)}
    assert families["earshot_ready"].samples[0].value == 1
    for name in (
        "earshot_audio_seconds", "earshot_upload_bytes", "earshot_time_to_first_token_seconds",
        "earshot_request_duration_seconds", "earshot_stage_seconds", "earshot_realtime_factor",
        "earshot_windows",
    ):  # fmt: skip
        assert any(sample.value > 0 for sample in families[name].samples), name
    stages = {sample.labels.get("stage") for sample in families["earshot_stage_seconds"].samples}
    assert {"upload", "decode_audio"} <= stages


def test_labels_hold_nothing_that_a_client_wrote(live: LiveServer) -> None:
    live.client.get("/secret-path")
    live.client.post("/transcribe", params={"language": "secret-language"}, content=SHORT)
    live.client.get("/v1/models/secret-model")
    assert "secret" not in live.client.get("/metrics").text


def test_the_model_is_listed_and_found(live: LiveServer) -> None:
    listed = live.client.get("/v1/models").json()
    assert listed["object"] == "list"
    (model,) = listed["data"]
    assert (model["id"], model["object"], model["owned_by"]) == (MODEL, "model", "earshot")
    for name in (MODEL, "whisper-1"):
        assert live.client.get(f"/v1/models/{name}").json() == model


def test_another_model_is_not_found_even_with_a_slash(live: LiveServer) -> None:
    for name in ("gpt-4", "openai%2Fwhisper-large-v3"):
        error = assert_envelope(live.client.get(f"/v1/models/{name}"), 404)
        assert error["code"] == "model_not_found"


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logs.JsonFormatter())
        self.addFilter(logs.RequestIdFilter())
        self.lines: list[dict[str, object]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(json.loads(self.format(record)))


def test_every_request_is_one_line_and_probes_are_none(live: LiveServer) -> None:
    handler = Lines()
    logger = logging.getLogger("service.api")
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    try:
        live.client.get("/livez", headers={"x-request-id": "probe"})
        for name, body in (("refused", b"text"), ("served", SHORT)):
            headers = {"x-request-id": name, "content-type": "audio/wav"}
            live.client.post("/transcribe?language=en", content=body, headers=headers)
        until(lambda: any(line["request_id"] == "served" for line in handler.lines), "it is logged")
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    ids = [line["request_id"] for line in handler.lines]
    assert (ids.count("probe"), ids.count("refused"), ids.count("served")) == (0, 1, 1)
    refused, served = (handler.lines[ids.index(name)] for name in ("refused", "served"))
    assert (refused["message"], refused["status"]) == ("POST /transcribe", 400)
    assert refused["error"] == "invalid_audio"
    assert served["message"] == "POST /transcribe"
    assert (served["status"], served["audio_s"], served["level"]) == (200, 0.5, "info")
    for name in ("duration_ms", "queue_ms", "first_token_ms", "tokens", "realtime_factor"):
        value = served[name]
        assert isinstance(value, int | float)
        assert value >= 0
    assert "text" not in served
