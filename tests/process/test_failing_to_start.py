"""What cannot work says why in one line, and with an exit code."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.process.running import earshot, free_port


def _complaints(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if line.startswith("earshot: ")]


def test_a_taken_port_is_one_line(random_model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = earshot("serve", "--port", port, "--model", str(random_model))
    assert ended.returncode == 1
    assert ended.stderr == f"earshot: cannot listen on 127.0.0.1:{port}: Address already in use\n"


def test_an_unknown_host_is_one_line() -> None:
    ended = earshot("serve", "--host", "no-such-host.invalid", "--port", "1")
    assert ended.returncode == 1
    assert ended.stderr.startswith("earshot: cannot listen on no-such-host.invalid:1: ")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["serve", "transcribe"])
def test_a_model_that_is_not_there_is_named(command: str, tmp_path: Path, short: Path) -> None:
    missing = str(tmp_path / "no" / "such" / "model")
    rest = ["--port", str(free_port())] if command == "serve" else [str(short)]
    ended = earshot(command, "--model", missing, *rest)
    assert ended.returncode == 1
    [complaint] = _complaints(ended.stderr)
    assert missing in complaint
    assert "Traceback" not in ended.stderr


def test_a_device_that_is_not_there_is_named(random_model: Path) -> None:
    port = str(free_port())
    ended = earshot("serve", "--device", "cuda:99", "--port", port, "--model", str(random_model))
    assert ended.returncode == 1
    [complaint] = _complaints(ended.stderr)
    assert "cuda:99" in complaint


def test_a_bad_option_and_a_bad_variable_are_named() -> None:
    ended = earshot("serve", "--port", "70000", EARSHOT_MAX_REQUESTS="none", EARSHOT_DEVCE="cpu")
    assert ended.returncode == 2
    assert [line.split(":")[1].strip() for line in _complaints(ended.stderr)] == [
        "warning",
        "--port=70000",
        "EARSHOT_MAX_REQUESTS=none",
    ]
    assert "is EARSHOT_DEVICE meant?" in ended.stderr
