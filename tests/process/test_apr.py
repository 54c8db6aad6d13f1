"""The built-in model as `.apr`, from the command line to the last token over HTTP."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.process.running import Running, earshot, environment

BUILTIN = "builtin"
RECORDING = "zero_three_five_one.wav"


def _running(model: str) -> Running:
    """A service that starts fast: few slots, and no measurement."""
    return Running("--model", model, EARSHOT_WINDOW_SLOTS="2", EARSHOT_ENCODE_BATCH="1")


def _heard(model: str, recording: Path) -> list[tuple[Any, ...]]:
    with _running(model) as service:
        events = list(service.wait_ready().transcribe(recording).events())
    assert events[-1]["type"] == "done"
    return [
        (event["token_id"], event["text"], event["logprob"])
        for event in events
        if event["type"] == "token"
    ]


@pytest.fixture(scope="module")
def spoken(samples: Path) -> list[tuple[Any, ...]]:
    """What the built-in model says, as it is shipped."""
    return _heard(BUILTIN, samples / RECORDING)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("layout", ["apr-v1", "apr-v2"])
def test_the_built_in_model_converted_says_the_same_over_http(
    tmp_path: Path, samples: Path, spoken: list[tuple[Any, ...]], layout: str
) -> None:
    path = tmp_path / "model.apr"
    converted = earshot("convert", BUILTIN, str(path), "--format", layout)
    assert converted.returncode == 0, converted.stderr
    assert (converted.stdout, converted.stderr) == ("", "")
    assert [file.name for file in tmp_path.iterdir()] == ["model.apr"]
    assert spoken
    assert _heard(str(path), samples / RECORDING) == spoken


def test_a_conversion_shows_how_far_it_is_on_a_terminal(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "service", "convert", BUILTIN, str(tmp_path / "model.apr")]
    with subprocess.Popen(command, env=environment(TERM="xterm"), stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # that is how a terminal without a writer ends
            while piece := os.read(ours, 4096):
                shown += piece
    os.close(ours)
    assert process.returncode == 0
    assert b"model.apr (apr-v2)" in shown
    assert b"100%" in shown


def test_a_conversion_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    ended = earshot("convert", BUILTIN, str(tmp_path / "m.apr"), "--quantize", "int8",
                    "--format", "apr-v2")  # fmt: skip
    assert ended.returncode == 2
    assert ended.stderr.startswith("earshot: layout 2 of .apr cannot be int8")
    assert ended.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_serve_names_the_tensors_that_a_drawing_model_lacks(shared: Path) -> None:
    ended = earshot("serve", "--model", str(shared / "fixtures/apr/test.apr"), "--port", "0")
    assert ended.returncode == 1
    assert "encoder.conv1.weight" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_service_draws_its_model_as_the_command_does(tmp_path: Path) -> None:
    path = tmp_path / "model.apr"
    assert earshot("convert", BUILTIN, str(path), "--quantize", "q8").returncode == 0
    drawn = earshot("flow", str(path)).stdout
    with _running(str(path)) as service:
        flow = f"{service.wait_ready().url}/v1/models/model.apr/flow"
        text = service.client.get(flow, headers={"accept": "text/plain"}).text
        report = service.client.get(flow).json()
    assert "AprQ8" in drawn
    assert text.splitlines()[1:] == drawn.splitlines()[1:]
    assert report["flow"] == json.loads(earshot("flow", str(path), "--json").stdout)["flow"]
