"""A real `earshot serve` in a process of its own, and what tests do with it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import httpx
import psutil

DEADLINE_S = 90.0
"""For anything at all; a test that waits longer has failed."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def environment(**variables: str) -> dict[str, str]:
    """This process's environment, without settings of Earshot but these."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EARSHOT_")}
    return kept | {"PYTHONUNBUFFERED": "1", "EARSHOT_LOG_FORMAT": "text"} | variables


def until(condition: Callable[[], bool], what: str) -> None:
    """Poll until it holds.

    Raises:
        TimeoutError: if it does not in time.
    """
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.02)


def earshot(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "service", *arguments],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def write_wav(path: Path, seconds: float) -> Path:
    """Write a rising tone, 16 kHz mono."""
    n_samples = int(seconds * 16_000)
    step = bytes(i % 251 for i in range(2 * n_samples))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(step)
    return path


class Stream:
    """The events of one transcription, read as they come."""

    def __init__(self, client: httpx.Client, url: str, path: Path, **options: str) -> None:
        request = client.build_request(
            "POST", f"{url}/transcribe", content=path.read_bytes(), params=options
        )
        self.response = client.send(request, stream=True)
        self._lines = self.response.iter_lines()

    def events(self) -> Iterator[dict[str, Any]]:
        for line in self._lines:
            if line.startswith("data:"):
                yield json.loads(line.removeprefix("data:"))

    def first_token(self) -> dict[str, Any]:
        return next(event for event in self.events() if event["type"] == "token")


class Running:
    """A service on a free port; killed when the test is over."""

    def __init__(self, *arguments: str, module: str = "service", **variables: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = httpx.Client(timeout=DEADLINE_S)
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, "serve", "--port", str(self.port), *arguments],
            env=environment(**variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @classmethod
    def held(cls, hold: Path, *arguments: str, **variables: str) -> Self:
        """A service that neither loads nor decodes while the file `hold` exists."""
        return cls(*arguments, module="tests.process.held", HOLD=str(hold), **variables)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.client.close()
        self.process.kill()
        self.process.communicate()

    def state(self, path: str = "/readyz") -> tuple[int, str]:
        """Status code and state, or (0, "") while nobody listens."""
        try:
            answer = self.client.get(self.url + path)
        except httpx.TransportError:
            return 0, ""
        return answer.status_code, answer.json()["status"]

    def wait_ready(self) -> Self:
        def ready_or_gone() -> bool:
            return self.state()[0] == 200 or self.process.poll() is not None

        until(ready_or_gone, "the service is not ready")
        if self.process.poll() is not None:
            raise RuntimeError(self.process.communicate()[1])
        return self

    def engine(self) -> psutil.Process:
        """The engine's process."""
        (engine,) = self._engines()
        return engine

    def has_engine(self) -> bool:
        """Whether the engine's process is there, which has a model to load yet."""
        return bool(self._engines())

    def transcribe(self, path: Path, **options: str) -> Stream:
        return Stream(self.client, self.url, path, **options)

    def send_signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> tuple[int, str]:
        """The exit code and what was written on stderr."""
        _, stderr = self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode, stderr

    def _engines(self) -> list[psutil.Process]:
        found = psutil.Process(self.process.pid).children()
        return [each for each in found if "service.engine_process" in each.cmdline()]
