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
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import httpx
import psutil
import typer
from rich.console import Console

START_TIMEOUT_S = 300.0
ENGINE = "service.engine_process"
"""The program of the engine's process, as its command line names it."""


@dataclass(frozen=True, slots=True)
class OwnService:
    """A service that runs.

    Attributes:
        url: where it listens, on the loopback interface.
        pid: its process, which has that of the engine as a child.
    """

    url: str
    pid: int


def processes_of(pid: int) -> list[psutil.Process]:
    """Return a service's own process, and that of its engine if there is one.

    The children that decode audio and the one that detects speech are not among them.

    Raises:
        psutil.NoSuchProcess: if the service's has ended.
    """
    service = psutil.Process(pid)
    return [service, *(child for child in service.children() if _is_engine(child))]


def cpu_time_s(processes: Iterable[psutil.Process]) -> float:
    """Return the CPU seconds that processes have used, by the kernel's account of each."""
    return float(sum(sum(process.cpu_times()[:2]) for process in processes))


def _is_engine(process: psutil.Process) -> bool:
    """Whether it runs the engine's program; who has ended does not."""
    try:
        return ENGINE in process.cmdline()
    except psutil.NoSuchProcess:
        return False


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
