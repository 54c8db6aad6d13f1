"""A client that leaves, in each stage, frees what it held, and its neighbours go on."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from tests.api.gated import ENCODING, FIRST_TOKEN, LAST_TOKEN, gated_server, held_server
from tests.api.live import (
    DEADLINE_S,
    Limits,
    LiveServer,
    Parts,
    noise,
    services_of,
    stream_events,
    until,
    wav,
)
from tests.unit.transcription.scripted import ScriptedRunner

LONG = wav(noise(40.0))
SHORT = wav(noise(1.0, seed=5))


@contextlib.contextmanager
def connected(live: LiveServer, head: str, body: bytes = b"") -> Iterator[socket.socket]:
    """Send a request by hand, and close the connection when the block is left."""
    with socket.create_connection(("127.0.0.1", live.port), timeout=DEADLINE_S) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode() + body)
        yield connection


def post(length: int, query: str = "") -> str:
    return (
        f"POST /transcribe?language=en{query} HTTP/1.1\nhost: x\ncontent-type: audio/wav\n"
        f"content-length: {length}\n\n"
    )


def cancelled(live: LiveServer, stage: str) -> float:
    return live.metric("earshot_requests_cancelled_total", stage=stage)


def test_leaving_within_the_upload(live: LiveServer) -> None:
    before = cancelled(live, "upload")
    with connected(live, post(len(LONG)), LONG[: len(LONG) // 2]):
        until(lambda: live.engine.stats()["requests"] == 1, "the request has its permit")
    live.until_idle()
    until(lambda: cancelled(live, "upload") == before + 1, "it is counted")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")
def test_leaving_while_the_audio_is_decoded(live: LiveServer) -> None:
    before = cancelled(live, "decode_audio")
    uploads = live.metric("earshot_stage_seconds_count", stage="upload")
    audio = wav(noise(1.0, rate=8_000), 8_000)
    stop_waiting_children(live)
    with connected(live, post(len(audio)), audio):
        until(
            lambda: live.metric("earshot_stage_seconds_count", stage="upload") == uploads + 1,
            "the upload is there",
        )
        until(lambda: bool(live.services.audio_decoder._children._active), "a child has it")
    live.until_idle()
    until(lambda: cancelled(live, "decode_audio") == before + 1, "it is counted")
    assert live.transcribe(audio, language="en").status_code == 200


def stop_waiting_children(live: LiveServer) -> list[int]:
    """Let the children stand still that wait for a file of this server; return which."""
    idle = live.services.audio_decoder._children._idle
    until(lambda: bool(idle) and all(task.done() for task in list(idle)), "a child waits")
    stopped = [task.result().pid for task in list(idle)]
    for child in stopped:
        os.kill(child, signal.SIGSTOP)
    return stopped


def decoding_children() -> list[int]:
    """Return the processes of this one's decoders."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"child.py" in (process / "cmdline").read_bytes():
                found.append(int(process.name))
    return found


def test_leaving_in_the_queue(parts: Parts) -> None:
    with gated_server(parts, Limits()) as (live, gate):
        with live.client.stream("POST", "/transcribe?language=en", content=SHORT) as first:
            events = stream_events(first)
            assert [next(events)["type"] for _ in range(2)] == ["started", "token"]
            with connected(live, post(len(SHORT)), SHORT) as connection:
                answer = b""
                while b"event: started" not in answer:
                    answer += connection.recv(65_536)
            until(lambda: cancelled(live, "queued") == 1, "it has left the queue")
            gate.set()
            assert list(events)[-1]["type"] == "done"
        live.until_idle()


def test_leaving_while_the_window_is_encoded(parts: Parts) -> None:
    with gated_server(parts, Limits(), ENCODING) as (live, gate):
        with connected(live, post(len(SHORT)), SHORT):
            until(lambda: live.engine.stats()["step_running_s"] is not None, "it is being encoded")
        until(lambda: live.engine.stats()["requests"] == 0, "the permit is back while it stands")
        gate.set()
        live.until_idle()
        assert live.events(SHORT, language="en")[-1]["type"] == "done"


@pytest.mark.parametrize("at", [FIRST_TOKEN, LAST_TOKEN], ids=["first", "last"])
def test_leaving_at_a_token(parts: Parts, at: int) -> None:
    with gated_server(parts, Limits(), at) as (live, gate):
        with live.client.stream("POST", "/transcribe?language=en", content=SHORT) as response:
            events = stream_events(response)
            heard = [next(events)["type"] for _ in range(at + 1)]
            assert heard == ["started", *["token"] * at]
        until(lambda: live.engine.stats()["requests"] == 0, "the permit is back while it stands")
        until(lambda: cancelled(live, "transcribe") == 1, "it is counted")
        gate.set()
        live.until_idle()
        assert live.events(SHORT, language="en")[-1]["type"] == "done"


def test_who_stops_reading_is_left_and_frees_everything(parts: Parts) -> None:
    """The kernel takes little for it here, and the rest waits in the service: not for ever."""
    talkative = replace(
        parts,
        runner=lambda: ScriptedRunner(
            lambda window, params: [*[5] * 30, parts.tokenizer.eot], rows=parts.rows
        ),
    )
    audio = wav(noise(180.0))
    limits = Limits(max_audio_s=200.0, api={"send_timeout_s": 0.5})
    with (
        LiveServer(services_of(talkative, limits), send_buffer=4096) as live,
        socket.socket() as to,
    ):
        to.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        to.settimeout(DEADLINE_S)
        to.connect(("127.0.0.1", live.port))
        to.sendall(post(len(audio)).replace("\n", "\r\n").encode() + audio)
        assert to.recv(512).startswith(b"HTTP/1.1 200 ")
        until(lambda: cancelled(live, "transcribe") == 1, "it is given up")
        live.until_idle()
        assert live.metric("earshot_windows_total", outcome="ok") < 90, "it was through by then"
        assert live.events(SHORT, language="en")[-1]["type"] == "done"


def test_leaving_within_the_stream(parts: Parts) -> None:
    with held_server(parts, Limits()) as (live, hold):
        hold.after(8)
        with live.client.stream("POST", "/transcribe?language=en", content=LONG) as response:
            events = stream_events(response)
            kinds = [event["type"] for event, _ in zip(events, range(5), strict=False)]
            assert kinds == ["started", *["token"] * 4]
        until(lambda: cancelled(live, "transcribe") == 1, "it is counted")
        hold.release()
        live.until_idle()
        assert live.events(SHORT, language="en")[-1]["type"] == "done"


def test_leaving_before_the_first_event_is_read(live: LiveServer) -> None:
    for _ in range(5):
        with connected(live, post(len(SHORT)), SHORT):
            pass
    live.until_idle()


def test_leaving_while_json_is_made(parts: Parts) -> None:
    with held_server(parts, Limits()) as (live, hold):
        hold.after(8)
        with connected(live, post(len(LONG), "&stream=false"), LONG):
            until(lambda: live.engine.stats()["decoder_rows_used"] == 1, "it is being decoded")
        until(lambda: cancelled(live, "transcribe") == 1, "it is counted")
        hold.release()
        live.until_idle()


def test_the_neighbours_of_one_who_leaves_are_not_touched(live: LiveServer) -> None:
    alone = live.events(SHORT, language="en")
    answers: list[list[dict[str, object]]] = []

    def neighbour() -> None:
        with (
            httpx.Client(base_url=live.url, timeout=DEADLINE_S, trust_env=False) as client,
            client.stream("POST", "/transcribe?language=en", content=SHORT) as response,
        ):
            answers.append(list(stream_events(response)))

    threads = [threading.Thread(target=neighbour) for _ in range(3)]
    with live.client.stream("POST", "/transcribe?language=en", content=LONG) as response:
        events = stream_events(response)
        next(events)
        for thread in threads:
            thread.start()
        next(events)
    for thread in threads:
        thread.join(DEADLINE_S)
    assert len(answers) == 3
    for answer in answers:
        assert logprobs(answer) == logprobs(alone)


def logprobs(events: list[dict[str, object]]) -> list[tuple[object, object]]:
    return [(e["token_id"], e["logprob"]) for e in events if e["type"] == "token"]
