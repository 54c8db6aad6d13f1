"""Old versions of the official client: the first 1.x, and the first that streams transcriptions."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.api.live import LiveServer, noise, wav

SCRIPT = Path(__file__).with_name("conversation.py")
SHORT = wav(noise(1.5))
ERRORS = {
    "no audio": ["BadRequestError", 400, "file", "invalid_audio"],
    "language": ["BadRequestError", 400, "language", "invalid_value"],
    "model": ["NotFoundError", 404, "model", "model_not_found"],
    "retrieve": ["NotFoundError", 404, "model", "model_not_found"],
}


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sdk") / "short.wav"
    path.write_bytes(SHORT)
    return path


def conversation(repository: Path, version: str, live: LiveServer, recording: Path) -> Any:
    """Return what an old client is told; a missing environment is a failure and no skip."""
    python = repository / ".venv" / f"openai-{version}" / "bin" / "python"
    assert python.exists(), f"openai {version} is not installed: make sdks"
    model = live.services.config.model_id
    ran = subprocess.run(
        [str(python), str(SCRIPT), f"{live.url}/v1", str(recording), model],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.mark.parametrize("version", ["1.0.0", "1.68.0"])
def test_an_old_client_is_understood_and_understands(
    repository: Path, live: LiveServer, recording: Path, version: str
) -> None:
    told = conversation(repository, version, live, recording)
    done = live.events(SHORT)[-1]
    assert told["version"] == version
    for way in ("opened", "path", "bytes", "tuple", "own option", "async"):
        assert told[way] == done["text"], way
    assert told["translation"] == live.events(SHORT, task="translate")[-1]["text"]
    assert told["verbose"] == len(done["segments"])
    assert told["models"] == [told["model"]] == [live.services.config.model_id]
    assert told["errors"] == ERRORS


def test_the_first_client_that_streams_reads_every_delta(
    repository: Path, live: LiveServer, recording: Path
) -> None:
    told = conversation(repository, "1.68.0", live, recording)
    text = live.events(SHORT, temperature=0)[-1]["text"]
    *deltas, last = told["stream"]
    assert {event["type"] for event in deltas} == {"transcript.text.delta"}
    assert "".join(event["delta"] for event in deltas) == text
    assert last == {"type": "transcript.text.done", "text": text}
    kept = live.events(SHORT, vad="off", no_speech_threshold="none")[-1]["text"]
    assert told["text"] == kept + "\n"
    assert told["srt"].startswith("1\n00:00:0")
    assert told["vtt"].startswith("WEBVTT\n\n00:00:0")
