"""Every error that Earshot raises on purpose, by name.

This module knows nothing about HTTP: `service/api/errors.py` holds the one table that turns these
into status codes. Messages name the limit and the value.

    ServiceError
    ├── InvalidRequest          the request cannot be served as it stands; `param` names the field
    │   ├── InvalidAudio        bytes that are not audio, damaged, or in a format off the allow-list
    │   └── AudioTooLong        one file is longer than the maximum for a file
    ├── PayloadTooLarge         more bytes than the limit on uploads
    ├── RequestTimeout          the body did not arrive, or its audio was not decoded, in time
    ├── DeadlineExceeded        the request was not through within `X-Request-Timeout`
    ├── Unauthorized            a key is needed, and there is none or another one
    ├── ModelNotFound           the request names a model that is not served
    ├── Unavailable             nothing wrong with the request: not now
    │   ├── EngineBusy          the queue is full; `retry_after_s` says when to come back
    │   ├── EngineStarting      the model is not loaded and warm yet
    │   ├── EngineDraining      the process is shutting down
    │   └── EngineDead          the engine failed for good
    ├── DecodingFailed          one sequence failed (NaN logits, a rule that raised), alone
    ├── CheckpointError         a model that cannot be served; names file, tensor, expected, found
    └── DeviceError             the device that was asked for is not there
"""

from __future__ import annotations


class ServiceError(Exception):
    """The root of the tree. `code` is the stable machine-readable name of the error.

    Args:
        message: one sentence for a person, naming the limit and the value.
        param: the request field at fault, where there is one.
        code: overrides the class's own code.
    """

    code: str = "internal_error"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code


class InvalidRequest(ServiceError):
    """The request cannot be served as it stands."""

    code = "invalid_value"


class InvalidAudio(InvalidRequest):
    """The upload is not audio that Earshot can read."""

    code = "invalid_audio"


class AudioTooLong(InvalidRequest):
    """One file holds more seconds of audio than a file may."""

    code = "audio_too_long"


class PayloadTooLarge(ServiceError):
    """The body holds more bytes than an upload may."""

    code = "payload_too_large"


class RequestTimeout(ServiceError):
    """The body did not arrive, or its audio was not decoded, within its deadline."""

    code = "request_timeout"


class DeadlineExceeded(ServiceError):
    """The request was not through within the time that it may take."""

    code = "deadline_exceeded"


class Unauthorized(ServiceError):
    """The request has no key, or none that is taken."""

    code = "invalid_api_key"


class ModelNotFound(ServiceError):
    """The request names a model that this process does not serve."""

    code = "model_not_found"


class Unavailable(ServiceError):
    """The request is fine, but cannot be taken now."""

    code = "unavailable"

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class EngineBusy(Unavailable):
    """A queue is full."""

    code = "queue_full"


class EngineStarting(Unavailable):
    """The model is not loaded and warm yet."""

    code = "starting"


class EngineDraining(Unavailable):
    """The process is shutting down and takes no new work."""

    code = "draining"


class EngineDead(Unavailable):
    """The engine failed for good; the process is about to exit."""

    code = "engine_dead"


class DecodingFailed(ServiceError):
    """One sequence could not be decoded; the others are unharmed."""

    code = "decoding_failed"


class CheckpointError(ServiceError):
    """A model file is missing, damaged or of the wrong shape."""

    code = "invalid_checkpoint"


class DeviceError(ServiceError):
    """The device that was asked for is not there, or cannot hold the model."""

    code = "device_unavailable"
