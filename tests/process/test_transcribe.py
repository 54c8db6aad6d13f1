"""`earshot transcribe`, in process and over a service, on good files and bad ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.running import Running, earshot, free_port


@pytest.fixture(scope="module")
def service(random_model: Path) -> Iterator[Running]:
    with Running("--model", str(random_model)) as running:
        yield running.wait_ready()


@pytest.fixture(params=["here", "server"])
def where(request: pytest.FixtureRequest, random_model: Path) -> list[str]:
    if request.param == "here":
        return ["--model", str(random_model)]
    running: Running = request.getfixturevalue("service")
    return ["--server", running.url]


def test_text_goes_to_stdout_and_nothing_else(where: list[str], short: Path) -> None:
    ended = earshot("transcribe", str(short), *where)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.endswith("\n")
    assert "\x1b" not in ended.stdout


def test_json_is_one_line_for_each_file(where: list[str], short: Path) -> None:
    ended = earshot("transcribe", "--json", str(short), str(short), *where)
    assert ended.returncode == 0, ended.stderr
    results = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [result["file"] for result in results] == [str(short)] * 2
    assert results[0]["duration_s"] == 1.0
    assert results[0]["text"] == results[1]["text"]


def test_a_file_that_is_no_audio_is_one_line_and_the_others_go_on(
    where: list[str], short: Path, tmp_path: Path
) -> None:
    text = tmp_path / "notes.wav"
    text.write_text("This is no audio at all.")
    missing = tmp_path / "missing.wav"
    ended = earshot("transcribe", str(text), str(missing), str(short), *where)
    assert ended.returncode == 2
    complaints = [line for line in ended.stderr.splitlines() if line.startswith("earshot: ")]
    assert [line.split(": ")[1] for line in complaints] == [str(text), str(missing)]
    assert "No such file" in complaints[1]
    assert ended.stdout.startswith(f"{short}: ")
    assert "Traceback" not in ended.stderr


def test_an_option_that_the_model_does_not_have_is_exit_code_2(
    where: list[str], short: Path
) -> None:
    ended = earshot("transcribe", str(short), "--language", "klingon", *where)
    assert ended.returncode == 2
    assert "klingon" in ended.stderr


def test_a_service_that_is_not_there_is_exit_code_1(short: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    ended = earshot("transcribe", str(short), "--server", url)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"earshot: {url}: ")
    assert ended.stderr.count("\n") == 1
