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
from tests.api.schema import app_schema

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
"""Not that valid forms are accepted: no schema says which bytes are audio."""
OPERATIONS = [
    (path, "requestBody" in operation or "parameters" in operation)
    for path, operations in app_schema()["paths"].items()
    for operation in operations.values()
]
ASKED = [
    (path, mode)
    for path, takes_input in OPERATIONS
    for mode in (GenerationMode if takes_input else [GenerationMode.POSITIVE])
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
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=strategy)
        def ask(case: schemathesis.Case[Any]) -> None:
            case.call_and_validate(checks=CHECKS, timeout=60)

        ask()
