"""Servers that take part: ours and the peers', as processes.

Knows nothing about what is measured.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from rich.console import Console

from benchmarks.own import own_service, processes_of
from benchmarks.peers.checkpoint import EOT

SERVE = Path(__file__).with_name("serve.py")
OURS = "Earshot"
OPTIONS = {
    "language": "en", "temperature": "0", "without_timestamps": "true", "vad": "off",
    "stream": "true",
}  # fmt: skip
TIMEOUT_S = 600.0


class PeerEnded(Exception):
    """A peer does not run on this machine."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """A server that runs.

    Attributes:
        name: of the engine and how it is set.
        url: where it listens.
        pid: its process; the engine of ours is a child of it.
        start_s: from its start until it was ready.
    """

    name: str
    url: str
    pid: int
    start_s: float

    @property
    def is_ours(self) -> bool:
        """Whether it speaks Earshot's interface."""
        return self.name.startswith(OURS)

    @property
    def peak_mb(self) -> float:
        """The most resident memory that its process has had; ours in sum with its engine's most."""
        return sum(_peak_mb(process.pid) for process in processes_of(self.pid))


def _peak_mb(pid: int) -> float:
    """Return the most resident memory that one process has had."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


@dataclass(frozen=True, slots=True)
class Reply:
    """What one request got.

    Attributes:
        tokens: of the text.
        first_s: until the first of them was known to the client.
        whole_s: until the last was.
    """

    tokens: list[int]
    first_s: float
    whole_s: float


@contextlib.contextmanager
def ours(name: str, model: Path, numerics: str, threads: int) -> Iterator[Contestant]:
    """Run our service on a model."""
    variables = {
        "EARSHOT_MODEL": str(model), "EARSHOT_NUMERICS": numerics,
        "EARSHOT_THREADS": str(threads),
    }  # fmt: skip
    began = time.perf_counter()
    with own_service(Console(stderr=True), variables) as service:
        yield Contestant(name, service.url, service.pid, time.perf_counter() - began)


@contextlib.contextmanager
def peer(
    python: Path, folder: Path, name: str, replicas: int, threads: int
) -> Iterator[Contestant]:
    """Run a peer behind the smallest server.

    Raises:
        PeerEnded: before it was ready.
    """
    # A pywhispercpp that was built here looks for its libraries where the loader does.
    libraries = next(python.parents[1].glob("lib/python*/site-packages"))
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "LD_LIBRARY_PATH": str(libraries),
    }
    began = time.perf_counter()
    command = [str(python), str(SERVE), str(folder), name, str(replicas), str(threads)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        if not port.isdigit():
            raise PeerEnded(f"{name} did not start: it printed {port!r}, exit {process.wait()}")
        label = f"{name}, {replicas} x {threads} thread{'s' * (threads > 1)}"
        url = f"http://127.0.0.1:{port}"
        yield Contestant(label, url, process.pid, time.perf_counter() - began)
    finally:
        process.terminate()
        process.wait()


def ask(contestant: Contestant, wav: bytes) -> Reply:
    """Have a recording transcribed.

    As little as can be is done while the answer comes: this process has no cores of its own.

    Raises:
        OSError, HTTPException: if there is no connection, or it is lost.
        RuntimeError: if the server says that it failed.
    """
    parts = urlsplit(contestant.url)
    path = f"/transcribe?{urlencode(OPTIONS)}" if contestant.is_ours else "/"
    arrived: list[tuple[float, bytes]] = []
    began = time.perf_counter()
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
    with contextlib.closing(connection):
        connection.request("POST", path, wav)
        response = connection.getresponse()
        while data := response.read1():
            arrived.append((time.perf_counter() - began, data))
    whole_s = time.perf_counter() - began
    body = b"".join(data for _, data in arrived)
    if response.status != HTTPStatus.OK:
        raise RuntimeError(f"{contestant.name}: {response.status} {body[:200]!r}")
    if not contestant.is_ours:
        return Reply(json.loads(body), whole_s, whole_s)
    tokens = [
        (at_s, event["token_id"])
        for at_s, event in _events(arrived)
        if event["type"] == "token" and event["token_id"] < EOT
    ]
    return Reply([token for _, token in tokens], tokens[0][0] if tokens else 0.0, whole_s)


def _events(arrived: list[tuple[float, bytes]]) -> Iterator[tuple[float, dict[str, Any]]]:
    """Yield server-sent events and when the last byte of each arrived.

    Raises:
        RuntimeError: at one that says that the service failed.
    """
    held = b""
    for at_s, data in arrived:
        *whole, held = (held + data).split(b"\n\n")
        for one in whole:
            if not (line := one.partition(b"data: ")[2]):
                continue  # a comment that keeps the connection alive
            event = json.loads(line)
            if event["type"] == "error":
                raise RuntimeError(f"{OURS}: {event}")
            yield at_s, event


def versions(python: Path) -> dict[str, str]:
    """Return the versions of what takes part."""
    names = [
        "faster-whisper",
        "ctranslate2",
        "pywhispercpp",
        "openai-whisper",
        "transformers",
        "torch",
    ]
    code = f"import importlib.metadata as m; print([m.version(n) for n in {names}])"
    found = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True)
    listed = [part.strip(" '\n") for part in found.stdout.strip().strip("[]").split(",")]
    return dict(zip(names, listed, strict=True)) | {"python": sys.version.split()[0]}
