"""What a program does with the `openai` package, of whatever version runs this, told as JSON.

Run by the tests with old versions, each in an environment of its own: nothing of ours is imported.

    python conversation.py BASE_URL RECORDING MODEL
"""

from __future__ import annotations

import asyncio
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai

STREAMS_SINCE = (1, 68)
KEPT = {"vad": "off", "no_speech_threshold": "none"}
"""What a random model says is kept, though it is no speech."""


def version() -> tuple[int, ...]:
    return tuple(int(part) for part in openai.__version__.split(".")[:2])


def talk(base_url: str, recording: Path, model: str) -> dict[str, Any]:
    options: dict[str, Any] = {"base_url": base_url, "api_key": "a-key", "max_retries": 0}
    client = openai.OpenAI(**options, _strict_response_validation=True)
    create: Any = client.audio.transcriptions.create
    audio = recording.read_bytes()
    with recording.open("rb") as opened:
        told: dict[str, Any] = {
            "version": openai.__version__,
            "opened": create(model=model, file=opened).text,
        }
    told["path"] = create(model=model, file=recording).text
    told["bytes"] = create(model=model, file=audio).text
    told["tuple"] = create(model=model, file=("a.wav", io.BytesIO(audio), "audio/wav")).text
    told["own option"] = create(model=model, file=audio, extra_body={"seed": 0}).text
    told["verbose"] = _segments(create(model=model, file=audio, response_format="verbose_json"))
    told["translation"] = client.audio.translations.create(model=model, file=audio).text
    told["models"] = [entry.id for entry in client.models.list()]
    told["model"] = client.models.retrieve(model).id
    told["errors"] = _errors(client, audio, model)
    told["async"] = asyncio.run(_async(options, audio, model))
    if version() >= (1, 40):  # before that, they were parsed as JSON whatever was asked for
        for form in ("text", "srt", "vtt"):
            answer = create(model=model, file=audio, response_format=form, extra_body=KEPT)
            told[form] = str(answer)
    if version() >= STREAMS_SINCE:
        told["stream"] = [
            event.model_dump(include={"type", "delta", "text"})
            for event in create(model=model, file=audio, stream=True)
        ]
    return told


def _segments(answer: Any) -> int:
    segments = answer.segments if hasattr(answer, "segments") else answer.model_dump()["segments"]
    return len(segments)


async def _async(options: dict[str, Any], audio: bytes, model: str) -> str:
    async with openai.AsyncOpenAI(**options, _strict_response_validation=True) as client:
        answer = await client.audio.transcriptions.create(model=model, file=audio)
    text: str = answer.text
    return text


def _errors(client: Any, audio: bytes, model: str) -> dict[str, list[Any]]:
    create = client.audio.transcriptions.create
    found = {}
    calls: dict[str, Callable[[], Any]] = {
        "no audio": lambda: create(model=model, file=b"no audio"),
        "language": lambda: create(model=model, file=audio, language="klingon"),
        "model": lambda: create(model="gpt-4o-transcribe", file=audio),
        "retrieve": lambda: client.models.retrieve("a/b"),
    }
    for name, call in calls.items():
        try:
            call()
        except openai.APIStatusError as error:
            told = error.response.json()["error"]  # the first versions have it nowhere else
            found[name] = [type(error).__name__, error.status_code, told["param"], told["code"]]
    return found


if __name__ == "__main__":
    print(json.dumps(talk(sys.argv[1], Path(sys.argv[2]), sys.argv[3])))  # noqa: T201
