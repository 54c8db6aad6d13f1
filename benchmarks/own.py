"""A service of one's own for as long as a measurement lasts.

Knows nothing about what is measured.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import httpx
import typer
from rich.console import Console

START_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class OwnService:
    """A service that runs.

    Attributes:
        url: where it listens, on the loopback interface.
        pid: its process.
    """

    url: str
    pid: int


@contextlib.contextmanager
def own_service(
    console: Console, variables: Mapping[str, str] | None = None
) -> Iterator[OwnService]:
    """Run a service on a free port for as long as the context lasts.

    Args:
        console: where to show that it starts.
        variables: of its environment, beside this process's own.

    Raises:
        typer.Exit: if it ends or is not ready in time; it has said why on stderr.
    """
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    serve = [sys.executable, "-m", "service", "serve", "--port", str(port), "--log-level", "error"]
    environment = os.environ | dict(variables or {})
    process = subprocess.Popen(serve, stdout=subprocess.DEVNULL, env=environment)
    try:
        with console.status("starting the service"):
            _await_ready(url, process)
        yield OwnService(url, process.pid)
    finally:
        process.terminate()
        process.wait()


def _await_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/readyz").is_success:
                return
        time.sleep(0.1)
    if process.poll() is None:
        typer.echo(f"the service was not ready within {START_TIMEOUT_S:g} s", err=True)
    raise typer.Exit(1)
