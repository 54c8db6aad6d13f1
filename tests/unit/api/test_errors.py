from __future__ import annotations

import json

import pytest

from service import errors
from service.api.errors import TABLE, answer_to, error_body, error_response


def every_error(kind: type[errors.ServiceError]) -> list[type[errors.ServiceError]]:
    return [kind, *(found for child in kind.__subclasses__() for found in every_error(child))]


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (errors.InvalidRequest, 400),
        (errors.InvalidAudio, 400),
        (errors.AudioTooLong, 400),
        (errors.Unauthorized, 401),
        (errors.ModelNotFound, 404),
        (errors.RequestTimeout, 408),
        (errors.PayloadTooLarge, 413),
        (errors.EngineBusy, 429),
        (errors.EngineStarting, 503),
        (errors.EngineDraining, 503),
        (errors.EngineDead, 503),
        (errors.DecodingFailed, 500),
        (errors.DeadlineExceeded, 504),
        (errors.CheckpointError, 500),
    ],
)
def test_each_error_has_its_status(kind: type[errors.ServiceError], status: int) -> None:
    response = error_response(kind("what happened"))
    assert response.status_code == status
    body = json.loads(bytes(response.body))
    assert body["error"]["message"] == "what happened"
    assert body["error"]["code"] == kind.code
    assert ("retry-after" in response.headers) == (status in (429, 503))


def test_every_error_of_the_tree_is_answered() -> None:
    for kind in every_error(errors.ServiceError):
        assert answer_to(kind("x")) in TABLE.values()


def test_retry_after_is_whole_seconds_and_milliseconds() -> None:
    response = error_response(errors.EngineBusy("full", retry_after_s=0.2))
    assert response.headers["retry-after"] == "1"
    assert response.headers["retry-after-ms"] == "200"
    assert response.headers["x-should-retry"] == "true"


def test_an_unexpected_error_tells_nothing_of_its_cause() -> None:
    body = error_body(RuntimeError("secret path"))
    assert "secret" not in json.dumps(body)
    assert error_response(RuntimeError("x")).status_code == 500
    assert error_response(RuntimeError("x")).headers["x-should-retry"] == "false"
