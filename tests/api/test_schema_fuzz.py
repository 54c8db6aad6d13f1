"""Whatever the schema allows, and some of what it does not: never a 5xx, answers as described."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.api.live import LiveServer, noise, wav

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
"""Not that valid forms are accepted: no schema says which bytes are audio."""
WITH_INPUT = [
    "/transcribe",
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
    "/v1/models/{model_id}",
    "/v1/models/{model_id}/flow",
]
WITHOUT_INPUT = ["/v1/models", "/livez", "/health", "/readyz", "/metrics"]
ASKED = [
    *((path, mode) for path in WITH_INPUT for mode in GenerationMode),
    *((path, GenerationMode.POSITIVE) for path in WITHOUT_INPUT),
]
EXAMPLES = {"POST": 25, "GET": 4}
SHORT = wav(noise(0.3))

schemathesis.openapi.format("binary", st.one_of(st.just(SHORT), st.just(b""), st.binary()))


@pytest.mark.parametrize(("path", "mode"), [*ASKED])
def test_every_answer_is_as_described(live: LiveServer, path: str, mode: GenerationMode) -> None:
    described = schemathesis.openapi.from_url(f"{live.url}/openapi.json")
    for operation in described[path].values():
        strategy = operation.as_strategy(generation_mode=mode)

        @settings(
            max_examples=EXAMPLES["POST" if operation.method.upper() == "POST" else "GET"],
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=strategy)
        def ask(case: schemathesis.Case[Any]) -> None:
            case.call_and_validate(checks=CHECKS, timeout=60)

        ask()


def test_every_path_is_asked(live: LiveServer) -> None:
    described = live.client.get("/openapi.json").json()["paths"]
    assert {path for path, _ in ASKED} == set(described)
