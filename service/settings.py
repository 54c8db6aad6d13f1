"""Everything that can be set from outside, with its default and its unit in the name.

Read by the command line and the composition root only: everyone else is handed a small frozen
config and knows nothing of environment variables.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "EARSHOT_"
CLIENT_KEY = "EARSHOT_API_KEY"
"""The key that `earshot transcribe --server` sends: no setting of a service."""
_KUBERNETES_SUFFIXES = ("_SERVICE_HOST", "_SERVICE_PORT", "_TCP", "_PROTO", "_ADDR")

Count = Annotated[int, Field(ge=1)]
CountOrAuto = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]

NumericsName = Literal[
    "auto", "plain", "packed", "bfloat16", "mixed", "mixed-decoder", "int8"
]  # fmt: skip


class Settings(BaseSettings):
    """One frozen object; each field is the variable `EARSHOT_<FIELD>`.

    Raises:
        pydantic.ValidationError: for a value that is no number, out of range or not in the list.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="forbid", frozen=True
    )

    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(
        default=8000, ge=0, le=65535, description="port to listen on; 0 takes a free one"
    )

    api_keys: SecretStr | None = Field(
        default=None,
        description="keys with commas between them: one of them is then needed as"
        " `Authorization: Bearer KEY`",
    )
    api_keys_file: Path | None = Field(
        default=None, description="a file with such keys, one a line; read at start"
    )
    cors_origins: str | None = Field(
        default=None,
        description="origins with commas between them whose pages may read answers; `*` for all",
    )

    model: str = Field(
        default="builtin",
        description="`builtin`, a folder, a file, or a hub id such as `openai/whisper-tiny`",
    )
    tokenizer: str | None = Field(
        default=None, description="folder, file or hub id, where the model brings no tokenizer"
    )
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="`auto` (CUDA if there is one), `cpu`, `cuda`, `cuda:1`",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="`auto` is float32 on a CPU and bfloat16 on CUDA"
    )
    numerics: NumericsName = Field(
        default="auto",
        description="arithmetic on a CPU, for weights in float32: `plain` is torch's own kernels,"
        " `packed` the same in float32 on weights laid out for this CPU, `bfloat16` linears,"
        " attention and window memory in bfloat16, `mixed` the same with the LM head in 8-bit"
        " integers, `mixed-decoder` that with the encoder in float32, `int8` that with 8-bit"
        " weights, and an encoder that multiplies in them; `auto` is `mixed` where the CPU has"
        " AMX or multiplies bfloat16 faster than float32, else `int8` where it can, else `packed`"
        " on x86-64; `plain` elsewhere, and where rows would not keep their bits beside others",
    )
    audio_context_s: float = Field(
        default=30,
        ge=1,
        le=30,
        description="the shortest window that a model trained on windows of 30 s is given: a"
        " shorter recording takes less time, and its text may be worse; 30 pads as in training",
    )
    threads: CountOrAuto = Field(
        default=0,
        description="torch's CPU threads; 0 is the CPUs it may use, or 1 for a small model",
    )

    window_slots: CountOrAuto = Field(
        default=0,
        description="windows of 30 s that are decoded at the same time; 0 is as many as fit into"
        " half of the memory that is free once the weights are loaded, at most 16 on a CPU and"
        " 64 on CUDA",
    )
    decoder_rows: CountOrAuto = Field(
        default=0,
        description="hypotheses decoded at the same time: one for each window, `beam_size` or "
        "`best_of` where that is asked for; 0 is half as many again as windows, at least 8",
    )
    encode_batch: CountOrAuto = Field(
        default=0,
        description="windows encoded in one forward at most, in powers of two; "
        "0 is measured at start",
    )

    max_requests: Count = Field(default=64, description="transcriptions admitted at the same time")
    max_queued_audio_seconds: Seconds = Field(
        default=14_400,
        description="audio of all admitted requests together; 64 kB of memory a second",
    )
    max_audio_seconds: Seconds = Field(
        default=7_200, validate_default=True, description="audio of one upload"
    )
    max_upload_bytes: Count = Field(default=100_000_000, description="body of one upload")
    max_decoded_bytes: Count = Field(
        default=2_000_000_000,
        description="decoded samples of one upload, before they are made mono",
    )
    max_channels: Count = Field(default=8, description="channels of one upload")
    decode_children: Count = Field(
        default=2, description="processes that decode audio at the same time"
    )

    max_request_timeout_s: Seconds = Field(
        default=14_400,
        description="for one request, from start to end; `X-Request-Timeout` may ask for less",
    )
    header_timeout_s: Seconds = Field(default=10, description="for the head of a request to arrive")
    idle_connection_timeout_s: Seconds = Field(
        default=75, description="between two requests on a connection that is kept open"
    )
    body_timeout_s: Seconds = Field(default=300, description="for the whole body to arrive")
    body_idle_timeout_s: Seconds = Field(default=20, description="between two pieces of a body")
    decode_timeout_s: Seconds = Field(
        default=60, description="for one upload to be decoded to samples"
    )
    send_timeout_s: Seconds = Field(
        default=30, description="for a client to take what is sent to it"
    )
    keepalive_s: Seconds = Field(
        default=15, description="between comments on a silent event stream"
    )
    drain_timeout_s: Seconds = Field(
        default=30, description="for running streams to end after SIGTERM"
    )

    log_format: Literal["auto", "text", "json"] = Field(
        default="auto", description="`auto` is text on a terminal and JSON lines elsewhere"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="the least that is logged"
    )

    @field_validator("api_keys")
    @classmethod
    def _holds_keys(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _keys_in(_items(value.get_secret_value())):
            raise ValueError("there is no key in it")
        return value

    @field_validator("api_keys_file")
    @classmethod
    def _is_a_file_of_keys(cls, value: Path | None) -> Path | None:
        if value is not None and not _keys_of(value):
            raise ValueError("there is no key in it")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _holds_origins(cls, value: str | None) -> str | None:
        for origin in () if value is None else _items(value):
            if origin != "*" and not re.fullmatch(r"https?://[^/\s]+", origin):
                raise ValueError(
                    f"{origin!r} is no origin: a scheme and a host, such as https://example.org"
                )
        return value

    @property
    def all_api_keys(self) -> tuple[str, ...]:
        """The keys of variable and file together."""
        given = "" if self.api_keys is None else self.api_keys.get_secret_value()
        of_file = () if self.api_keys_file is None else _keys_of(self.api_keys_file)
        return (*_keys_in(_items(given)), *of_file)

    @property
    def all_cors_origins(self) -> tuple[str, ...]:
        """The origins, one by one."""
        return tuple(_items(self.cors_origins or ""))

    @field_validator("port", mode="before")
    @classmethod
    def _is_no_service_link(cls, value: object) -> object:
        """Kubernetes sets `EARSHOT_PORT=tcp://...` where a Service is called `earshot`."""
        if isinstance(value, str) and value.startswith("tcp://"):
            raise ValueError(
                f"{value} was set by Kubernetes for a Service called earshot: "
                "set enableServiceLinks: false on the pod, or EARSHOT_PORT"
            )
        return value

    @field_validator("max_audio_seconds")
    @classmethod
    def _fits_into_the_queue(cls, value: float, info: ValidationInfo) -> float:
        """A file that could never be admitted would be told to come back for ever."""
        queued = info.data.get("max_queued_audio_seconds")
        if queued is not None and value > queued:
            raise ValueError(f"is more than max_queued_audio_seconds, {queued:g}: it never fits")
        return value


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _keys_of(file: Path) -> tuple[str, ...]:
    """Return the keys in a file; lines that are empty or begin with # hold none.

    Raises:
        ValueError: if it cannot be read, or a key cannot be sent in a header.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ValueError(f"cannot be read: {reason}") from None
    return _keys_in(line for line in lines if line.strip() and not line.startswith("#"))


def _keys_in(texts: Iterable[str]) -> tuple[str, ...]:
    keys = tuple(text.strip() for text in texts)
    for number, key in enumerate(keys, start=1):
        if not re.fullmatch(r"[!-~]+", key):
            raise ValueError(f"key {number} is empty, or has a blank or what is not ASCII in it")
    return keys


def unknown_variables(names: Iterable[str] | None = None) -> list[str]:
    """Return a sentence for each `EARSHOT_*` variable that sets nothing: a slip, most likely.

    Args:
        names: of the variables; None for those of this process.
    """
    known = [variable(field) for field in Settings.model_fields]
    sentences = []
    for name in sorted(os.environ if names is None else names):
        if not name.startswith(PREFIX) or name in (*known, CLIENT_KEY):
            continue
        if name.endswith(_KUBERNETES_SUFFIXES):
            continue
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" (is {close[0]} meant?)" if close else ""
        sentences.append(f"{name} is not a setting{hint}")
    return sentences


def variable(field: str) -> str:
    """Return the environment variable of a field."""
    return f"{PREFIX}{field.upper()}"
